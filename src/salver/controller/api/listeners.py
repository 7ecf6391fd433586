"""Where the control API listens: connections and their bounds, and which of them are listened to at all.

uvicorn speaks HTTP here, as it is not the request path. What it does not bound is bounded here: connections, the size
of a head, and how long one may take.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from salver.controller.api.answers import Refusal
from salver.data.channel import same_user

_MOST_CONNECTIONS = 256
_HEAD_BYTES = 64 * 1024
_HEAD_WITHIN_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """One connection of the control API."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= _MOST_CONNECTIONS:
            transport.abort()
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self in self.connections:  # else it was refused at once
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self._head_timer is None and cycle is not None and cycle.response_complete:
            self._await_head()  # neither rest of a body nor empty lines keep a connection for ever
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
                self._refuse(Refusal(431, "The head of the request is too large."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "This is not HTTP/1.1 as it is understood here."))

    def _await_head(self) -> None:
        self._end_head()
        self._in_head = True
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(_HEAD_WITHIN_S, self.transport.abort)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, refusal: Refusal) -> None:
        answer = refusal.answer()
        head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
        self.transport.write(b"HTTP/1.1 %d \r\n%sconnection: close\r\n\r\n" % (answer.status_code, head))
        self.transport.write(bytes(answer.body))
        self.transport.close()


class SameUserProtocol(BoundedProtocol):
    """Refuses peers that run as somebody else."""

    def connection_made(self, transport: Any) -> None:
        if same_user(transport):
            super().connection_made(transport)
        else:
            transport.abort()


class Listener:
    """One ASGI application on some sockets.

    Args:
        application: what answers.
        protocol: which connections are listened to.
        sockets: that listen; closed in the end.
    """

    def __init__(
        self, application: ASGIApp, protocol: type[BoundedProtocol], sockets: Sequence[socket.socket]
    ) -> None:
        config = uvicorn.Config(
            application,
            http=protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            log_level="error",  # its warnings are about what strangers send: nobody may fill our log with those
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._sockets = list(sockets)

    async def serve(self) -> None:
        """Serve until ``stop``."""
        await self._server.serve(sockets=self._sockets)

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals belong to the process, not to this server."""
        return nullcontext()
