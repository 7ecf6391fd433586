"""One client's WebSocket at the proxy: its transport, its pace, its clock.

It takes over the connection as soon as the upgrade is asked for, so that no byte after the request can be taken for
another HTTP request, whatever comes of it; an answer other than 101 therefore ends the connection.

    HANDSHAKE --open--> OPEN --close of either side, violation, silence, drain--> CLOSING --deadline or EOF--> gone
              --any HTTP answer-------------------------------------------------> CLOSING

Bytes are taken in small steps, each of which ends with a look at the application's credit, and many frames are spread
over turns of the loop: neither a thousandfold compression nor a flood of tiny frames gets ahead of that. All waiting
has a deadline, in one attribute, checked by the proxy's sweep.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol

from salver.data.http.connection import HTTPConnection
from salver.data.http.exchange import RequestExchange
from salver.data.http.joined_writes import JoinedWrites
from salver.data.http.limits import HTTPLimits
from salver.data.http.problem import unavailable
from salver.data.http.response import BODYLESS, response_head, stream_framing
from salver.data.http.websocket_exchange import WebSocketExchange
from salver.data.http.websocket_protocol import HandshakeRefused, WebSocketProtocol
from salver.wire.frames import Buffer

_NEVER = float("inf")
_CLOSE_S = 5.0
"""How long the client may take to answer a close."""

_LINGER_S = 2.0
"""How long it may then take to hang up."""

_STEP_BYTES = 4096
_FRAMES_A_TURN = 256
_PINGS_UNREAD = 128

_GOING_AWAY = 1001
_ABNORMAL = 1006
_POLICY = 1008
_RESTART = 1012


class Handler(Protocol):
    """What a connection needs of its proxy."""

    date_line: bytes
    draining: bool

    def connection_opened(self, connection: WebSocketConnection) -> None: ...

    def connection_closed(self, connection: WebSocketConnection) -> None: ...


def take_over(
    http: HTTPConnection, request: RequestExchange, handler: Handler, limits: HTTPLimits
) -> WebSocketExchange | None:
    """Make a WebSocket of the connection that ``request``, which asks for one, came by.

    Returns:
        What is to be routed; None when the handshake was wrong and has been answered.
    """
    connection = WebSocketConnection(http, request, handler, limits)
    if handler.draining:
        problem = unavailable()
        block, text = problem.render(request.head, request.request_id)
        connection.write_whole(connection.exchange, problem.status, block, text, -1)
        return None
    try:
        connection.protocol = WebSocketProtocol(request.head, limits.websocket_message)
    except HandshakeRefused as refused:
        connection.write_whole(connection.exchange, refused.status, refused.block, refused.text, -1)
        return None
    return connection.exchange


class _Phase(Enum):
    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3


class WebSocketConnection(asyncio.Protocol):
    """The server side of one WebSocket, from the handshake to the end of the connection.

    Attributes:
        exchange: its way to the application.
        protocol: None until the handshake has been checked, and when it was wrong.
        deadline: when ``timed_out`` is to be called, on the loop's clock.
    """

    def __init__(self, http: HTTPConnection, request: RequestExchange, handler: Handler, limits: HTTPLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._limits = limits
        self._phase = _Phase.HANDSHAKE
        self.protocol: WebSocketProtocol | None = None
        self._unparsed = bytearray()
        self._held_back = False
        """The application has to catch up before more is taken."""
        self._parse_scheduled = False
        self._ended = False
        """Our side of the connection has ended."""
        self._paused_writing = False
        self._pings_unread = 0
        """Pings answered since the client stopped reading the answers."""
        self._pinged = False
        self._heard = False
        """The client gave a sign of life since the last ping."""
        self._unread = 0
        """Bytes that the client had not read at the last ping."""
        self.deadline = _NEVER
        self.scheme = "wss" if http.scheme == "https" else "ws"
        self.client = http.client
        self.server = http.server
        self.exchange = WebSocketExchange(self, request)
        self._transport = http.hand_over()
        self._joined = JoinedWrites(self._transport, self._loop)
        handler.connection_opened(self)
        self._transport.set_protocol(self)
        if not self._transport.is_closing():
            self._transport.resume_reading()  # HTTP may have paused it over pipelined requests

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._phase is _Phase.HANDSHAKE:
            self.exchange.client_spoke_early()
        elif not self._ended:
            self._unparsed += data
            self._parse()

    def eof_received(self) -> bool:
        self._lost()
        self.deadline = self._loop.time() + _LINGER_S
        return False

    def pause_writing(self) -> None:
        self._paused_writing = True
        self._pings_unread = 0
        if self._phase is _Phase.HANDSHAKE:
            self.deadline = self._loop.time() + self._limits.body_idle_timeout_s

    def resume_writing(self) -> None:
        self._paused_writing = False
        self._heard = True
        if self._phase is _Phase.HANDSHAKE:
            self.deadline = _NEVER
        self.exchange.client_caught_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_closed(self)
        self._unparsed.clear()
        self._lost()

    def _lost(self) -> None:
        if self._phase is not _Phase.CLOSING:
            self._phase = _Phase.CLOSING
            self.exchange.client_closed(_ABNORMAL, "")

    # --- what the client sends --------------------------------------------------------------------------

    def _parse(self) -> None:
        protocol = self.protocol
        assert protocol is not None
        last_frame = protocol.frames + _FRAMES_A_TURN
        while self._unparsed and not self._held_back and not self._ended and protocol.frames < last_frame:
            step = bytes(self._unparsed[:_STEP_BYTES])
            del self._unparsed[:_STEP_BYTES]
            self._take(protocol, step)
        if self._ended:
            self._unparsed.clear()
        if self._transport.is_closing():
            return
        if not self._unparsed and not self._held_back:
            self._transport.resume_reading()
            return
        self._transport.pause_reading()
        if not self._held_back and not self._parse_scheduled:
            self._parse_scheduled = True
            self._loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        self._parse_scheduled = False
        self._parse()

    def _take(self, protocol: WebSocketProtocol, step: bytes) -> None:
        pings = protocol.pings
        messages = protocol.receive(step)
        self._joined.add(protocol.output())
        if self._phase is _Phase.OPEN:
            for payload, text in messages:
                self.exchange.message_received(payload, text=text)
            if not protocol.is_open:
                self._phase = _Phase.CLOSING
                close = protocol.client_close
                self.exchange.client_closed(*((close.code, close.reason) if close is not None else (_ABNORMAL, "")))
            elif self._paused_writing and protocol.pings > pings:
                self._pings_unread += protocol.pings - pings
                if self._pings_unread > _PINGS_UNREAD:
                    self._fail(_POLICY, "too many pings whose answers are not read")
        if protocol.over:
            self._end()

    def pause_reading(self) -> None:
        self._held_back = True

    def resume_reading(self) -> None:
        if self._held_back:
            self._held_back = False
            self._parse()

    # --- what the exchange answers ----------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what was written."""
        return not self._paused_writing

    @property
    def draining(self) -> bool:
        return self._handler.draining

    def open(self, block: bytes) -> None:
        """Accept the handshake, with these header lines besides those of the protocol."""
        assert self.protocol is not None
        self._phase = _Phase.OPEN
        self.deadline = self._loop.time() + self._limits.websocket_ping_s
        own = b"" if b"x-request-id:" in block else self.exchange.extra_lines
        self._joined.add(self.protocol.accept(block + own))
        if self._handler.draining:
            self.close_if_idle()

    def write_message(self, payload: bytes, *, text: bool) -> None:
        assert self.protocol is not None
        self.protocol.send(payload, text=text)
        self._joined.add(self.protocol.output())

    def close(self, code: int, reason: str) -> None:
        """Close; the client has a while to answer that."""
        if self._phase is not _Phase.OPEN or self.protocol is None:
            return
        self._phase = _Phase.CLOSING
        self.deadline = self._loop.time() + _CLOSE_S
        self.protocol.close(code, reason)
        self._joined.add(self.protocol.output())
        self._held_back = False  # what comes now goes nowhere, but the client's close is among it
        self._parse()

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: Buffer, declared: int) -> None:
        """Answer the handshake over HTTP."""
        body = b"" if status in BODYLESS else body
        framing = b"" if status in BODYLESS else b"content-length: %d\r\n" % len(body)
        self._joined.add(self._head(status, block, framing) + body)
        self._end()

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        """The head of such an answer whose body streams: not in chunks, since the connection ends with it."""
        self._joined.add(self._head(status, block, stream_framing(status, declared, "1.0").line))
        return False

    def write_piece(self, data: Buffer) -> None:
        self._joined.add(data)

    def stream_ended(self, exchange: RequestExchange) -> None:
        self._end()

    def _head(self, status: int, block: bytes, framing: bytes) -> bytes:
        lines = self.exchange.extra_lines
        return response_head(status, block, framing, self._handler.date_line, lines, "1.1", close=True)

    # --- ends -------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Nothing more is written. Closing at once would reset the connection over what the client still sends, and
        it might never see the last of what it was sent: end our side, and wait for its end.
        """
        self._phase = _Phase.CLOSING
        self.deadline = self._loop.time() + _LINGER_S
        self._joined.flush()
        if self._ended or self._transport.is_closing():
            return
        self._ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS
            self._transport.close()

    def _fail(self, code: int, reason: str, told: int = _ABNORMAL) -> None:
        """Close from here; ``told`` is the code that the application hears."""
        assert self.protocol is not None
        self._phase = _Phase.CLOSING
        self.protocol.fail(code, reason)
        self._joined.add(self.protocol.output())
        self._end()
        self.exchange.client_closed(told, "")

    def timed_out(self) -> None:
        """The deadline passed: time for a ping, or too late for whatever was awaited."""
        if self._phase is _Phase.OPEN:
            self._check_alive()
        else:
            self._transport.abort()

    def _check_alive(self) -> None:
        """Ping, and later look for any sign of life: a pong may be behind a message that takes its time, or behind
        what we do not read; and a client that reads, however slowly, is there.
        """
        unread = self._transport.get_write_buffer_size()
        if self._pinged:
            self._pinged = False
            if not self._heard and unread >= self._unread and self._transport.is_reading():
                self._fail(_GOING_AWAY, "no pong came in time")
                return
            until_next = self._limits.websocket_ping_s - self._limits.websocket_pong_s
            if until_next > 0:
                self.deadline = self._loop.time() + until_next
                return
        assert self.protocol is not None
        self._pinged = True
        self._heard = False
        self._unread = unread
        self.deadline = self._loop.time() + self._limits.websocket_pong_s
        if not self._paused_writing:
            self.protocol.ping()
            self._joined.add(self.protocol.output())

    def close_if_idle(self) -> None:
        """The proxy drains. An open WebSocket has no end to wait for; a handshake has, and is closed after it."""
        if self._phase is _Phase.OPEN:
            self._fail(_RESTART, "the server is being stopped", told=_RESTART)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()
