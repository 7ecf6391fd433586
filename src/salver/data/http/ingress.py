"""From an HTTP request to its application: the routing of paths, deadlines, and the ingress's own answers.

Knows no sockets: a proxy process feeds it from connections, local testing mode from ASGI calls.
"""

from __future__ import annotations

import time

import msgspec
from msgspec.structs import replace

from salver.data.http.exchange import RequestExchange
from salver.data.http.head import RequestHead
from salver.data.http.options import ProxyOptions
from salver.data.http.problem import NO_ROUTE, Problem
from salver.data.request_metrics import http_answered, http_started
from salver.data.routing.caller import Caller
from salver.errors import DeploymentUnavailableError
from salver.telemetry.access_log import AccessLog
from salver.wire.snapshot import ApplicationRoute, Snapshot

_OK = 200

_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


class Ingress:
    """Routes requests by the longest prefix.

    Args:
        caller: reaches deployments; its snapshots are the routes.
        options: deadlines, and what clients may see.
        access_log: gets a line for each request; for the ingress's own paths only when the answer is no 200.
    """

    def __init__(self, caller: Caller, options: ProxyOptions, access_log: AccessLog | None = None) -> None:
        self.caller = caller
        self._access_log = access_log
        self._options = options
        self._outside = options.root_path.encode()
        self._routes: list[tuple[str, bytes, ApplicationRoute]] = []
        self.debug = options.debug
        self.draining = False
        caller.on_snapshot(self._snapshot_changed)

    def request_ready(self, exchange: RequestExchange) -> None:
        """Hand a request to the router of its application; ``exchange`` gets the answer, whatever it is."""
        http_started()
        exchange.begin(self, time.monotonic())
        path = exchange.head.path
        if path.startswith(b"/-/") and self._answer_own(exchange, path):
            return
        found = self.find(path)
        if found is None:
            exchange.answer(no_route(exchange.head))
            return
        prefix, route = found
        exchange.route = prefix or "/"
        exchange.root_path = self._options.root_path + prefix
        if self._outside:  # ASGI wants what was stripped in ``path`` as well as in ``root_path``
            exchange.head = replace(exchange.head, target=self._outside + exchange.head.target)
        exchange.app = route.name
        self._limit(exchange, route)
        key = f"{route.name}#{route.ingress}"
        router = self.caller.router(key)
        if router is None:
            exchange.refused(DeploymentUnavailableError(key, "It does not exist, or was deleted."))
        else:
            router.submit(exchange)

    def find(self, path: bytes) -> tuple[str, ApplicationRoute] | None:
        """The application with the longest prefix of ``path``, and that prefix without a final slash."""
        for prefix, boundary, route in self._routes:
            if not prefix or path.startswith(boundary) or path == boundary[:-1]:
                return prefix, route
        return None

    def _limit(self, exchange: RequestExchange, route: ApplicationRoute) -> None:
        """Give the request its deadline: what the client asks for, else what the instance was told."""
        timeout_s = self._options.request_timeout_s
        asks = exchange.head.asks
        if asks is not None and asks.timeout_s is not None:
            timeout_s = asks.timeout_s or None
        exchange.timeout_status = route.timeout_status or self._options.timeout_status
        if timeout_s is not None:
            exchange.limit(timeout_s)

    def request_ended(self, exchange: RequestExchange, status: int) -> None:
        """A request has its end, whichever."""
        head = exchange.head
        now = time.monotonic()
        seconds = now - exchange.started_at
        http_answered(exchange.route, head.method, exchange.app, status, seconds)
        access_log = self._access_log
        if access_log is not None and (exchange.app or status != _OK):  # who asks for our health asks every second
            client = exchange.client if access_log.shows_clients else ""
            who = (exchange.request_id, exchange.app, exchange.route, client)
            access_log.ended((now, head.method, head.path, status, seconds, *who))

    # --- own answers ------------------------------------------------------------------------------------

    def _answer_own(self, exchange: RequestExchange, path: bytes) -> bool:
        if path == b"/-/healthz":
            status, text = self._health()
            exchange.respond(status, _TEXT, text)
        elif path == b"/-/routes":
            routes = {prefix or "/": route.name for prefix, _, route in self._routes}
            exchange.respond(200, _JSON, msgspec.json.encode(routes))
        else:
            return False
        return True

    def _health(self) -> tuple[int, bytes]:
        snapshot = self.caller.snapshot
        if self.draining:
            return 503, b"This node is being drained."
        if snapshot is None or not self._routes:
            return 503, b"Route table is not populated yet."
        if not any(route.replicas for route in snapshot.deployments if not route.unavailable):
            return 503, b"No replicas are available yet."
        return 200, b"success"

    def _snapshot_changed(self, snapshot: Snapshot) -> None:
        exposed = [route for route in snapshot.applications if route.route_prefix is not None]
        exposed.sort(key=lambda route: len(route.route_prefix or ""), reverse=True)
        self._routes = []
        for route in exposed:
            prefix = (route.route_prefix or "").rstrip("/")
            self._routes.append((prefix, prefix.encode() + b"/", route))
            self.caller.router(f"{route.name}#{route.ingress}")  # connect now, not at the first request


def no_route(head: RequestHead) -> Problem:
    """The answer to a path that is no application's."""
    path = head.path.decode("latin-1")
    host = head.host.decode("latin-1") or "127.0.0.1"
    return Problem(404, NO_ROUTE, f"Path '{path}' not found. Ping http://{host}/-/routes for available routes.")
