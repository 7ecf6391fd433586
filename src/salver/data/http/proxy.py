"""The HTTP front: accepts connections on sockets that already listen, and keeps an eye on all of them."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from salver.data.channel import Connect
from salver.data.http.connection import HTTPConnection
from salver.data.http.exchange import RequestExchange
from salver.data.http.ingress import Ingress
from salver.data.http.options import ProxyOptions
from salver.data.load_board import LoadBoard
from salver.data.metrics_push import MetricsPush
from salver.data.routing.caller import Caller
from salver.telemetry.access_log import AccessLog
from salver.wire.messages import Hello

if TYPE_CHECKING:
    from salver.data.http.websocket_connection import WebSocketConnection

logger = logging.getLogger("salver.proxy")

_SWEEP_S = 1.0
_LOOK_AFTER_PAUSED_S = 0.05
_MOST_CONNECTIONS = 10_000
_BACKLOG = 2048


class Proxy:
    """Serves HTTP for all applications of an instance.

    Args:
        connect, controller_address, hello, board: as in ``Caller``.
        options: what the instance was told about HTTP.
        metrics: sends this process's to the controller; closed with this.
        access_log: gets a line for each request; closed with this.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        controller_address: str,
        hello: Hello,
        board: LoadBoard,
        options: ProxyOptions,
        metrics: MetricsPush | None = None,
        access_log: AccessLog | None = None,
    ) -> None:
        self._caller = Caller(connect=connect, controller_address=controller_address, hello=hello, board=board)
        self._metrics = metrics
        if metrics is not None:
            self._caller.push_metrics(metrics)
        self.ingress = Ingress(self._caller, options, access_log)
        self.request_ready = self.ingress.request_ready
        self._access_log = access_log
        self._options = options
        self._connections: set[HTTPConnection | WebSocketConnection] = set()
        self._paused: set[HTTPConnection] = set()
        """Connections that are not read from while their request runs."""
        self._most_connections = min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._servers: list[asyncio.Server] = []
        self._listening: list[socket.socket] = []
        self._arguments: dict[str, Any] = {}
        """Of whatever makes connections: TLS, if it is on."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._turned_away = 0
        """Connections above the most, since the last sweep."""
        self._emptied = asyncio.Event()
        self.date_line = b""
        self.draining = False
        self.scheme = "http" if options.tls is None else "https"

    async def start(self, sockets: list[socket.socket]) -> None:
        """Begin to serve; requests wait for the first routing table inside their router.

        Raises:
            ConfigurationError: the files for TLS are not in order any more.
        """
        secured = self._secured()
        self._sweep()
        self._caller.start()
        await self._caller.refresh()
        loop = asyncio.get_running_loop()
        for listening in sockets:
            server = await loop.create_server(self._new_connection, sock=listening, backlog=_BACKLOG, **secured)
            self._servers.append(server)
        self._listening = sockets
        self._arguments = secured

    def _new_connection(self) -> HTTPConnection:
        return HTTPConnection(self, self._options.limits)

    def _secured(self) -> dict[str, Any]:
        """Arguments of ``create_server`` for TLS, if it is on."""
        files = self._options.tls
        if files is None:
            return {}
        from salver.data.http.tls import listen_arguments, refused_by_clients  # only who needs them carries them

        arguments = listen_arguments(files)
        reason = refused_by_clients(arguments["ssl"], files.certfile)
        if reason:
            logger.warning("clients will refuse the certificate in %s: %s", files.certfile, reason)
        return arguments

    async def drain(self) -> None:
        """Accept nothing new; return when the last request has been answered."""
        self.draining = True
        self.ingress.drain()
        waiting = self._accept_waiting()
        for server in self._servers:
            server.close()
        connect = asyncio.get_running_loop().connect_accepted_socket
        connecting = (connect(self._new_connection, accepted, **self._arguments) for accepted in waiting)
        await asyncio.gather(*connecting, return_exceptions=True)  # one that has gone, or does not speak TLS
        for connection in list(self._connections):
            connection.close_if_idle()
        while self._connections:  # there may have been none for a moment, before those who waited were there
            self._emptied.clear()
            await self._emptied.wait()

    def _accept_waiting(self) -> list[socket.socket]:
        """Clients that are connected as far as they know: closing the sockets that listen would reset them."""
        accepted: list[socket.socket] = []
        for listening in self._listening:
            with suppress(OSError):  # there are no more; or it is closed already
                listening.setblocking(False)
                while len(accepted) < _BACKLOG:
                    accepted.append(listening.accept()[0])
        return accepted

    async def stop(self) -> None:
        """Close everything at once. May be called twice."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        for timer in (self._sweeping, self._looking):
            if timer is not None:
                timer.cancel()
        self._sweeping = self._looking = None
        if self._metrics is not None:
            self._metrics.close()
        if self._access_log is not None:
            self._access_log.close()
        await self._caller.stop()

    # --- Handler, for the connections -------------------------------------------------------------------

    def connection_opened(self, connection: HTTPConnection | WebSocketConnection) -> None:
        self._connections.add(connection)
        if len(self._connections) > self._most_connections and isinstance(connection, HTTPConnection):
            self._turned_away += 1
            connection.turn_away()

    def connection_closed(self, connection: HTTPConnection | WebSocketConnection) -> None:
        self._connections.discard(connection)
        if isinstance(connection, HTTPConnection):
            self._paused.discard(connection)
        if self.draining and not self._connections:
            self._emptied.set()

    def websocket_requested(self, connection: HTTPConnection, exchange: RequestExchange) -> None:
        from salver.data.http.websocket_connection import take_over  # 2 MB, for the proxies that need it

        websocket = take_over(connection, exchange, self, self._options.limits)
        if websocket is not None:
            self.ingress.request_ready(websocket)

    def reading_paused(self, connection: HTTPConnection) -> None:
        self._paused.add(connection)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_AFTER_PAUSED_S, self._look_after_paused)

    # --- upkeep -----------------------------------------------------------------------------------------

    def _look_after_paused(self) -> None:
        """End the requests of clients that left while they were not read from."""
        self._looking = None
        paused, self._paused = self._paused, set()
        for connection in paused:
            if connection.look_for_client():
                self.reading_paused(connection)

    def _sweep(self) -> None:
        """Once a second: the date header, and connections whose deadline has passed."""
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep)
        self.date_line = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"
        now = loop.time()
        for connection in [each for each in self._connections if each.deadline < now]:
            connection.timed_out()
        if self._turned_away:
            logger.warning("%d connections turned away: no more than %d", self._turned_away, self._most_connections)
            self._turned_away = 0
