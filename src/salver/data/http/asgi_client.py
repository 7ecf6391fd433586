"""The client of one request that came as an ASGI call: what is written to it becomes ASGI messages.

They wait here until the ASGI side has taken them. A client that is slow holds up the application, as one behind a
socket does: above 64 KiB nothing more is granted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from salver.data.http.exchange import RequestExchange
from salver.data.http.response import BODYLESS
from salver.data.replica.asgi import Message, Scope
from salver.wire.frames import Buffer

Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_HIGH_WATER_BYTES = 64 * 1024
_LAST_OF_A_WEBSOCKET = frozenset(("websocket.close", "websocket.disconnect"))


class ResponseCut(ConnectionError):
    """The application failed in the middle of its answer: what has come is not the whole."""


class ASGIClient:
    """The ``Client`` of one request.

    Args:
        scope: of the call.

    Attributes:
        may_read: cleared while the application has to catch up with the body.
    """

    def __init__(self, scope: Scope) -> None:
        self.scheme: str = scope.get("scheme", "http")
        self.client = _pair(scope.get("client"))
        self.server = _pair(scope.get("server"))
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._out: deque[tuple[Message, int]] = deque()
        self._waiting = 0
        self._more = asyncio.Event()
        self._ended = False
        self._broken = False
        self._streaming: RequestExchange | None = None

    @property
    def writable(self) -> bool:
        return self._waiting < _HIGH_WATER_BYTES

    def pause_reading(self) -> None:
        self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: Buffer, declared: int) -> None:
        length = len(body)
        if exchange.head.method == "HEAD" or status in BODYLESS:
            length = -1 if status in BODYLESS else max(declared, length)
            body = b""
        self._start(exchange, status, block, length)
        self._body(bytes(body), more=False)

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        self._streaming = exchange
        self._start(exchange, status, block, -1 if status in BODYLESS else declared)
        return False

    def write_piece(self, data: Buffer) -> None:
        self._body(bytes(data), more=True)

    def stream_ended(self, exchange: RequestExchange) -> None:
        self._body(b"", more=False)

    def abort(self) -> None:
        self._broken = True
        self.closed()

    def closed(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._more.set()

    # --- as messages ------------------------------------------------------------------------------------

    def _start(self, exchange: RequestExchange, status: int, block: bytes, length: int) -> None:
        headers = header_pairs(exchange, block)
        if length >= 0:
            headers.append((b"content-length", b"%d" % length))
        self._say({"type": "http.response.start", "status": status, "headers": headers})

    def _body(self, data: bytes, *, more: bool) -> None:
        self._say({"type": "http.response.body", "body": data, "more_body": more}, len(data))

    def _say(self, message: Message, size: int = 0) -> None:
        self._out.append((message, size))
        self._waiting += size
        self._more.set()

    async def send_all(self, send: Send) -> None:
        """Pass everything on until the exchange is complete. Raises ResponseCut when it never will be."""
        while True:
            while self._out:
                message, size = self._out.popleft()
                await send(message)
                self._waiting -= size
                if _is_last(message):
                    return
                if self._streaming is not None and self.writable:
                    self._streaming.client_caught_up()
            if self._broken:
                raise ResponseCut("the response was cut: the application failed in the middle of it")
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()


def header_pairs(exchange: RequestExchange, block: bytes) -> Headers:
    """Header lines, with those that every answer has: an ``x-request-id`` of the application stays the only one."""
    if b"x-request-id:" not in block:
        block += exchange.extra_lines
    lines = [line.partition(b": ") for line in block.split(b"\r\n") if line]
    return [(name.lower(), value) for name, _, value in lines]


def _is_last(message: Message) -> bool:
    if message["type"].endswith("http.response.body"):
        return not message["more_body"]
    return message["type"] in _LAST_OF_A_WEBSOCKET


def _pair(address: Any) -> tuple[str, int] | None:
    return None if address is None else (str(address[0]), int(address[1] or 0))
