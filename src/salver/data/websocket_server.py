"""One client's WebSocket at the proxy: RFC 6455 towards the client, whole messages towards the exchange.

It takes over the connection as soon as the upgrade is asked for, so that no byte after the request can be taken for
another HTTP request, whatever comes of it; an answer other than 101 therefore closes the connection.

    HANDSHAKE --open--> OPEN --close of either side, violation, silence, drain--> CLOSING --deadline or EOF--> gone
              --any HTTP answer-------------------------------------------------> CLOSING

The protocol itself is the ``websockets`` library's, without I/O. What it leaves to us: the encoding of text, how much is
taken at a time, and the clock. All waiting has a deadline, in one attribute, checked by the proxy's sweep.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from websockets.frames import Frame, Opcode
from websockets.protocol import State

from salver.data.http_limits import HTTPLimits
from salver.data.http_response import response_head, stream_framing
from salver.data.problem import BAD_REQUEST, Problem, unavailable
from salver.data.request_exchange import RequestExchange
from salver.data.websocket_exchange import WebSocketExchange
from salver.data.websocket_handshake import Handshake, HandshakeRefused

_NEVER = float("inf")
_WRITE_BUFFER_BYTES = 64 * 1024
_CLOSE_S = 5.0
"""For the client to answer a close, and to hang up."""

_TAKEN_AT_A_TIME = 4096
"""Bytes between two looks at whether more can be taken: compressed ones may be a thousand times as many messages."""

_FRAMES_A_TURN = 256
_CONTROL_FRAMES_UNREAD = 128
_COMPRESS_BELOW_BYTES = 128 * 1024  # compressing more would hold up every other client for too long
_REASON_AT_MOST = 123


class _Phase(Enum):
    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3


class Handler(Protocol):
    """What a connection needs of its proxy."""

    date_line: bytes
    draining: bool
    scheme: str

    def connection_opened(self, connection: WebSocketConnection) -> None: ...

    def connection_closed(self, connection: WebSocketConnection) -> None: ...


def take_over(
    transport: asyncio.Transport, request: RequestExchange, handler: Handler, limits: HTTPLimits
) -> WebSocketExchange | None:
    """Make a WebSocket of a connection whose client asks for it.

    Returns:
        What is to be routed; None when the handshake was wrong and has been answered.
    """
    connection = WebSocketConnection(transport, handler, limits)
    exchange = connection.exchange = WebSocketExchange(connection, request)
    handler.connection_opened(connection)
    transport.set_protocol(connection)
    if handler.draining:
        exchange.answer(unavailable())
    elif request.body.streams or request.head.content_length:
        exchange.answer(Problem(400, BAD_REQUEST, "A WebSocket handshake has no body."))
    else:
        try:
            connection.handshake = Handshake(request.head, limits.websocket_message)
        except HandshakeRefused as refused:
            exchange.respond(refused.status, refused.block, refused.body)
        else:
            return exchange
    return None


class WebSocketConnection(asyncio.Protocol):
    """The server side of one WebSocket, from the handshake to the end of the connection."""

    exchange: WebSocketExchange
    handshake: Handshake

    def __init__(self, transport: asyncio.Transport, handler: Handler, limits: HTTPLimits) -> None:
        self._transport = transport
        self._handler = handler
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._phase = _Phase.HANDSHAKE
        self._unparsed = bytearray()
        self._held_back = False
        """The application has to catch up before more is taken."""
        self._parsing_scheduled = False
        self._fragments = bytearray()
        self._is_text = False
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._paused_writing = False
        self._control_frames_unread = 0
        self._pinged = False
        self._heard = True
        """The client gave a sign of life since the last ping."""
        self._unread = 0
        """Bytes that the client had not read at the last ping."""
        self.deadline = _NEVER
        self.scheme = "wss" if handler.scheme == "https" else "ws"
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._phase is _Phase.OPEN or (self._phase is _Phase.CLOSING and hasattr(self, "handshake")):
            self._unparsed += data
            self._parse()
        elif self._phase is _Phase.HANDSHAKE:
            # RFC 6455, section 4.1: the client waits for the answer. What it sends before is nobody's to interpret.
            self.exchange.client_closed(_ABNORMAL, "")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        ...
