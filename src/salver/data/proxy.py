"""The HTTP ingress: accepts connections, finds each request's application, hands it to that deployment's router."""

from __future__ import annotations

import asyncio
import resource
import socket
from email.utils import formatdate

import msgspec

from salver.data.caller import Caller
from salver.data.channel import Connect
from salver.data.http1 import HTTPLimits
from salver.data.http_server import HTTPConnection
from salver.data.load_board import LoadBoard
from salver.data.request_exchange import RequestExchange
from salver.errors import DeploymentUnavailableError
from salver.wire.messages import Hello
from salver.wire.snapshot import ApplicationRoute, Snapshot

_SWEEP_S = 1.0
_MOST_CONNECTIONS = 10_000
_JSON = b"content-type: application/json\r\n"


class Proxy:
    """Serves HTTP on sockets that already listen.

    Args:
        connect, controller_address, hello, board: as in ``Caller``.
        limits: of what a client may send.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        controller_address: str,
        hello: Hello,
        board: LoadBoard,
        limits: HTTPLimits,
    ) -> None:
        self._caller = Caller(
            connect=connect,
            controller_address=controller_address,
            hello=hello,
            board=board,
            on_snapshot=self._snapshot_changed,
        )
        self._limits = limits
        self._connections: set[HTTPConnection] = set()
        self._most_connections = min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._routes: list[tuple[str, bytes, ApplicationRoute]] = []
        self._servers: list[asyncio.Server] = []
        self._sweeping: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self.date_line = b""
        self.draining = False

    async def start(self, sockets: list[socket.socket]) -> None:
        """Begin to serve; requests wait for the first routing table inside their router."""
        self._sweep()
        self._caller.start()
        await self._caller.refresh()
        loop = asyncio.get_running_loop()
        for listening in sockets:
            server = await loop.create_server(
                lambda: HTTPConnection(self, self._limits), sock=listening, backlog=2048
            )
            self._servers.append(server)

    async def drain(self) -> None:
        """Accept nothing new; return when the last request has been answered."""
        self.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            await self._emptied.wait()

    async def stop(self) -> None:
        """Close everything at once. May be called twice."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        await self._caller.stop()

    # --- Handler, for the connections -------------------------------------------------------------------

    def connection_opened(self, connection: HTTPConnection) -> None:
        self._connections.add(connection)
        if len(self._connections) > self._most_connections:
            connection.abort()

    def connection_closed(self, connection: HTTPConnection) -> None:
        self._connections.discard(connection)
        if self.draining and not self._connections:
            self._emptied.set()

    def request_ready(self, exchange: RequestExchange) -> None:
        if exchange.head.upgrade == b"websocket":
            exchange.answer(501, "WebSocket is not supported in this version of Salver.")
            return
        path = exchange.head.path
        if path.startswith(b"/-/") and self._answer_own(exchange, path):
            return
        for prefix, boundary, route in self._routes:
            if not prefix or path.startswith(boundary) or path == boundary[:-1]:
                exchange.root_path = prefix
                exchange.app = route.name
                self._submit(exchange, route)
                return
        exchange.answer(404, self._not_found_text(exchange))

    def _submit(self, exchange: RequestExchange, route: ApplicationRoute) -> None:
        key = f"{route.name}#{route.ingress}"
        router = self._caller.router(key)
        if router is None:
            exchange.refused(DeploymentUnavailableError(key, "It does not exist, or was deleted."))
        else:
            router.submit(exchange)

    # --- the proxy's own answers ------------------------------------------------------------------------

    def _answer_own(self, exchange: RequestExchange, path: bytes) -> bool:
        if path == b"/-/healthz":
            status, text = self._health()
            exchange.answer(status, text)
        elif path == b"/-/routes":
            routes = {prefix or "/": route.name for prefix, _, route in self._routes}
            exchange.answer(200, msgspec.json.encode(routes).decode(), content_type=_JSON)
        else:
            return False
        return True

    def _health(self) -> tuple[int, str]:
        if self.draining:
            return 503, "This node is being drained."
        if self._caller.snapshot is None or not self._routes:
            return 503, "Route table is not populated yet."
        if not any(route.replicas for route in self._caller.snapshot.deployments if not route.unavailable):
            return 503, "No replicas are available yet."
        return 200, "success"

    def _not_found_text(self, exchange: RequestExchange) -> str:
        path = exchange.head.path.decode("latin-1")
        host = exchange.head.host.decode("latin-1") or "127.0.0.1"
        return f"Path '{path}' not found. Ping http://{host}/-/routes for available routes."

    # --- upkeep -----------------------------------------------------------------------------------------

    def _snapshot_changed(self, snapshot: Snapshot) -> None:
        exposed = [route for route in snapshot.applications if route.route_prefix is not None]
        exposed.sort(key=lambda route: len(route.route_prefix or ""), reverse=True)
        self._routes = []
        for route in exposed:
            prefix = (route.route_prefix or "").rstrip("/")
            self._routes.append((prefix, prefix.encode() + b"/", route))
            self._caller.router(f"{route.name}#{route.ingress}")  # connect now, not at the first request

    def _sweep(self) -> None:
        """Once a second: the date header, and connections whose deadline has passed."""
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep)
        self.date_line = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now = loop.time()
        for connection in [each for each in self._connections if each.deadline < now]:
            connection.timed_out()
