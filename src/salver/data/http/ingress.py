"""From an HTTP request to its application: the routing of paths, deadlines, and the ingress's own answers.

Knows no sockets: a proxy process feeds it from connections, local testing mode from ASGI calls.
"""

from __future__ import annotations

import time

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from salver.data.http.early import EarlyRequests
from salver.data.http.exchange import RequestExchange
from salver.data.http.head import RequestHead
from salver.data.http.options import ProxyOptions
from salver.data.http.problem import NO_ROUTE, Problem
from salver.data.request_metrics import http_answered, http_started
from salver.data.routing.caller import Caller
from salver.errors import DeploymentUnavailableError
from salver.telemetry.access_log import AccessLog
from salver.wire.snapshot import Snapshot

_OK = 200

_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


class _Mounted(Struct, frozen=True):
    """An application below its prefix: what its requests have in common, found out once.

    Attributes:
        name: the application's.
        route: the prefix as it is shown in logs and metrics.
        root_path: of the ASGI scope.
        ingress: its deployment's key.
        timeout_status: what a client hears when its deadline has passed.
    """

    name: str
    route: str
    root_path: str
    ingress: str
    timeout_status: int


_AWAITED = _Mounted("", "", "", "", timeout_status=503)
"""In place of an application that is still to come. No deployment has its key, so no request looks for it twice."""


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
        self._mounted: dict[bytes, _Mounted] = {b"": _AWAITED}
        self._unlogged: frozenset[str] = frozenset()
        """Applications that want no lines in the access log."""
        self._longest_prefix = 0
        self._exposed: dict[str, str] = {}
        """Names of applications by route."""
        self._early = EarlyRequests()
        self.debug = options.debug
        self.draining = False
        caller.on_snapshot(self._snapshot_changed)

    def request_ready(self, exchange: RequestExchange) -> None:
        """Hand a request to the router of its application; ``exchange`` gets the answer, whatever it is."""
        http_started()
        exchange.begin(self, time.monotonic())
        path = exchange.head.path
        if not (path.startswith(b"/-/") and self._answer_own(exchange, path)):
            self._route(exchange, path)

    def drain(self) -> None:
        """Nothing more will be deployed here: what waits for that is answered."""
        self.draining = True
        self._early.close()

    def _route(self, exchange: RequestExchange, path: bytes) -> None:
        mounted = self._find(path)
        if mounted is None:
            exchange.answer(no_route(exchange.head))
            return
        exchange.app = mounted.name
        exchange.route = mounted.route
        exchange.root_path = mounted.root_path
        exchange.timeout_status = mounted.timeout_status
        asks = exchange.head.asks
        if asks is None or asks.timeout_s is None:
            timeout_s = self._options.request_timeout_s
        else:
            timeout_s = asks.timeout_s or None  # the client's own wish; 0 is no deadline
        if timeout_s is not None:
            exchange.limit(timeout_s)
        router = self.caller.router(mounted.ingress)
        if router is None:
            self._not_there(exchange, mounted)
            return
        if self._outside:  # ASGI wants what was stripped in ``path`` as well as in ``root_path``
            exchange.head = replace(exchange.head, target=self._outside + exchange.head.target)
        router.submit(exchange)

    def _not_there(self, exchange: RequestExchange, mounted: _Mounted) -> None:
        if mounted is _AWAITED:
            self._early.add(exchange)
        else:
            exchange.refused(DeploymentUnavailableError(mounted.ingress, "It does not exist, or was deleted."))

    def _find(self, path: bytes) -> _Mounted | None:
        """The application with the longest prefix of ``path``: a look-up for each slash, none for each application.

        What is longer than every prefix is cut first, so that no client can make that many look-ups.
        """
        end = len(path)
        if end > self._longest_prefix:
            end = path.rfind(b"/", 0, self._longest_prefix + 1)
        while end > 0:
            mounted = self._mounted.get(path[:end])
            if mounted is not None:
                return mounted
            end = path.rfind(b"/", 0, end)
        return self._mounted.get(b"")

    def request_ended(self, exchange: RequestExchange, status: int) -> None:
        """A request has its end, whichever."""
        head = exchange.head
        now = time.monotonic()
        seconds = now - exchange.started_at
        http_answered(exchange.route, head.method, exchange.app, status, seconds)
        access_log = self._access_log
        if access_log is not None and (exchange.app or status != _OK):  # who asks for our health asks every second
            if exchange.app in self._unlogged:
                return
            client = exchange.client if access_log.shows_clients else ""
            who = (exchange.request_id, exchange.app, exchange.route, client)
            access_log.ended((now, head.method, head.path, status, seconds, *who))

    # --- own answers ------------------------------------------------------------------------------------

    def _answer_own(self, exchange: RequestExchange, path: bytes) -> bool:
        if path == b"/-/healthz":
            status, text = self._health()
            exchange.respond(status, _TEXT, text)
        elif path == b"/-/routes":
            exchange.respond(200, _JSON, msgspec.json.encode(self._exposed))
        else:
            return False
        return True

    def _health(self) -> tuple[int, bytes]:
        snapshot = self.caller.snapshot
        if self.draining:
            return 503, b"This node is being drained."
        if snapshot is None or not self._exposed:
            return 503, b"Route table is not populated yet."
        if not any(route.replicas for route in snapshot.deployments if not route.unavailable):
            return 503, b"No replicas are available yet."
        return 200, b"success"

    def _snapshot_changed(self, snapshot: Snapshot) -> None:
        exposed = [route for route in snapshot.applications if route.route_prefix is not None]
        exposed.sort(key=lambda route: len(route.route_prefix or ""), reverse=True)
        self._mounted, self._exposed = {}, {}
        self._unlogged = frozenset(route.name for route in exposed if not route.access_log)
        for route in exposed:
            prefix = (route.route_prefix or "").rstrip("/")
            mounted = _Mounted(
                name=route.name,
                route=prefix or "/",
                root_path=self._options.root_path + prefix,
                ingress=f"{route.name}#{route.ingress}",
                timeout_status=route.timeout_status or self._options.timeout_status,
            )
            if self._mounted.setdefault(prefix.encode(), mounted) is mounted:
                self._exposed[mounted.route] = mounted.name
            self.caller.router(mounted.ingress)  # connect now, not at the first request
        for prefix in snapshot.awaited:
            self._mounted.setdefault(prefix.rstrip("/").encode(), _AWAITED)
        self._longest_prefix = max(map(len, self._mounted), default=0)
        for exchange in self._early.take():
            self._route(exchange, exchange.head.path)


def no_route(head: RequestHead) -> Problem:
    """The answer to a path that is no application's."""
    path = head.path.decode("latin-1")
    host = head.host.decode("latin-1") or "127.0.0.1"
    return Problem(404, NO_ROUTE, f"Path '{path}' not found. Ping http://{host}/-/routes for available routes.")
