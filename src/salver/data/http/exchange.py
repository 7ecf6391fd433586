"""One HTTP request on its way through the ingress: from the client to a replica and back.

It ends exactly once, with a status: answered, refused, broken, out of time, or left by its client (499, which nobody
hears). Whatever the end, what runs for it in a replica is told at once.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from salver.data.context import accept_request_id
from salver.data.http.body import INLINE_BODY_BYTES, RequestBody
from salver.data.http.parser import RequestHead
from salver.data.http.problem import (
    Problem,
    application_error,
    error_event,
    overloaded,
    replica_died,
    timed_out,
    unavailable,
)
from salver.data.http.response import BODYLESS
from salver.data.routing.replica_link import ReplicaLink
from salver.errors import BackPressureError
from salver.wire.frames import END, PIECES, Buffer, Frame, Kind
from salver.wire.messages import (
    ErrorKind,
    RequestMeta,
    decode_credit,
    decode_error,
    decode_response,
    encode,
    encode_credit,
)
from salver.wire.pieces import PIECE, split_pieces

CLIENT_LEFT = 499
"""The status, in logs and metrics only, of a request whose client did not wait for the answer."""

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")

# Naming an enum's member costs 60 ns on Python 3.11.
_REQUEST = int(Kind.REQUEST)
_RESPONSE = int(Kind.RESPONSE)
_DATA = int(Kind.DATA)

_FAILED = 500  # and above: the application could not do it, whatever was asked

_SHORTEST_S = 0.001  # on the wire 0 means no deadline


class Client(Protocol):
    """What a request needs of the connection that it came by (``connection.HTTPConnection``)."""

    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int] | None

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what was written."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: Buffer, declared: int) -> None:
        """The complete response."""
        ...

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        """The head of a streamed response; returns whether the body goes out in chunks."""
        ...

    def write_piece(self, data: Buffer) -> None:
        """Part of a streamed response."""
        ...

    def stream_ended(self, exchange: RequestExchange) -> None: ...

    def abort(self) -> None:
        """Cut the connection: the client must not take what it has for the whole."""
        ...


class ExchangeOwner(Protocol):
    """Who routes requests and keeps count of them."""

    debug: bool

    def request_ended(self, exchange: RequestExchange, status: int) -> None: ...


class RequestExchange:
    """An ``Exchange`` for the router, fed by the client's connection."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_deadline",
        "_event_begun",
        "_event_stream",
        "_headless",
        "_link",
        "_owed",
        "_owner",
        "_status",
        "_stream",
        "_timer",
        "_undelivered",
        "abandoned",
        "app",
        "attempts",
        "begun",
        "body",
        "closes",
        "ends_with_connection",
        "head",
        "model_id",
        "request_id",
        "response_started",
        "root_path",
        "route",
        "session_id",
        "started_at",
        "timeout_s",
        "timeout_status",
    )

    def __init__(self, connection: Client, head: RequestHead) -> None:
        self._connection = connection
        self._owner: ExchangeOwner | None = None
        self.head = head
        self.request_id = accept_request_id(head.request_id)
        asks = head.asks
        self.model_id = "" if asks is None else asks.model_id
        self.session_id = "" if asks is None else asks.session_id
        self.body = RequestBody(connection, streams=head.chunked or (head.content_length or 0) > INLINE_BODY_BYTES)
        self.begun = False
        self.started_at = 0.0
        self.app = ""
        self.route = ""
        """Prefix by which the application was found; empty for the proxy's own paths."""
        self.root_path = ""
        self.timeout_s: float | None = None
        self.timeout_status = 504
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.abandoned = False
        self.attempts = 0
        self._link: ReplicaLink | None = None
        self._stream = 0
        self.response_started = False
        self._status = 0
        self.closes = False
        self.ends_with_connection = False
        """The response has neither a length nor chunks: its end is the connection's."""
        self._chunked = False
        self._headless = head.method == "HEAD"
        self._event_stream = False
        self._event_begun = False
        """The last that was sent of a stream of events may be in the middle of one."""
        self._owed = 0
        self._undelivered = -1
        """Bytes that a streamed response has declared and not yet sent; -1 when it declared none."""

    @property
    def extra_lines(self) -> bytes:
        """Header lines that every answer has."""
        line = b"x-request-id: %s\r\n" % self.request_id.encode()
        return line + b"x-attempts: %d\r\n" % self.attempts if self.attempts > 1 else line

    @property
    def client(self) -> str:
        """Where it came from, ``ADDRESS:PORT``; empty when that is unknown."""
        client = self._connection.client
        return f"{client[0]}:{client[1]}" if client is not None else ""

    # --- life -------------------------------------------------------------------------------------------

    def begin(self, owner: ExchangeOwner, now: float) -> None:
        """It has been handed to ``owner``, who hears of its end."""
        self._owner = owner
        self.started_at = now

    def limit(self, timeout_s: float) -> None:
        """Give it ``timeout_s`` seconds, from its beginning to the end of its answer."""
        loop = asyncio.get_running_loop()
        self.timeout_s = timeout_s
        self._deadline = self.started_at + timeout_s
        self._timer = loop.call_at(self._deadline, self._expired)

    def lift_limit(self) -> None:
        """Let it wait for longer than ``limit`` said, which may be called again."""
        self.timeout_s = self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        self._stop()
        self._broken(timed_out(self.timeout_status, self.request_id, self.timeout_s))

    def _stop(self) -> None:
        """Whatever waits or runs for it need not go on."""
        self.abandoned = True
        link, self._link = self._link, None
        if link is not None:
            link.cancel(self._stream)

    def _ended(self, status: int) -> None:
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.request_ended(self, status)

    # --- the request, from the client -------------------------------------------------------------------

    def body_received(self, chunk: bytes) -> None:
        self.body.received(chunk)
        if self.body.streams:
            self.pump_body()

    def pump_body(self) -> None:
        """Send as much of a body that streams as the replica granted."""
        link = self._link
        if link is not None and link.channel is not None and self.body.streams:
            self.body.pump(link.channel, self._stream)

    def client_gone(self, status: int = CLIENT_LEFT) -> None:
        """The client hung up, or was told off with ``status``: what runs for it stops, unless it asked otherwise."""
        asks = self.head.asks
        if asks is not None and asks.disconnect_disabled and self.body.complete and self._owner is not None:
            self._connection = _NOBODY
            self.client_caught_up()
            return
        self._stop()
        self._ended(status)

    def client_caught_up(self) -> None:
        """The client read what was written: let the replica send more."""
        if self._owed and self._link is not None and self._link.channel is not None:
            self._link.channel.send(Kind.CREDIT, self._stream, encode_credit(self._owed))
            self._owed = 0

    # --- Exchange: to the replica -----------------------------------------------------------------------

    @property
    def may_go_ahead(self) -> bool:
        return True  # at most a small body goes with it

    @property
    def retryable(self) -> bool:
        return not self.response_started and not self.body.streams

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        meta = self._request_meta(0.0 if self._deadline is None else self._remaining_s(self._deadline))
        channel = link.channel
        assert channel is not None
        if self.body.streams:
            self.body.restart()
            channel.send(_REQUEST, stream, encode(meta), flags=link.pace.flag)
        else:
            channel.send(_REQUEST, stream, encode(meta), self.body.whole(), END | link.pace.flag)

    def _request_meta(self, remaining_s: float) -> RequestMeta:
        head = self.head
        connection = self._connection
        return RequestMeta(
            head.method,
            head.target,
            head.headers,
            self.request_id,
            head.http_version,
            self.root_path,
            self.app,
            connection.scheme,
            connection.client,
            connection.server,
            remaining_s,
            self.model_id,
            self.session_id,
        )

    def _remaining_s(self, deadline: float) -> float:
        return max(deadline - asyncio.get_running_loop().time(), _SHORTEST_S)

    # --- Exchange: from the replica ---------------------------------------------------------------------

    def frame_received(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == _RESPONSE:
            meta = decode_response(frame.meta)
            self._connection.write_whole(self, meta.status, meta.header_block, frame.payload, meta.content_length)
            self._answered(meta.status)
        elif kind == _DATA:
            self._data(frame)
        elif kind == Kind.HEAD:
            self._head(frame)
        elif kind == Kind.CREDIT:
            self.body.grant(decode_credit(frame.meta))
            self.pump_body()
        else:
            self._error(frame)

    def _head(self, frame: Frame) -> None:
        meta = decode_response(frame.meta)
        self.response_started = True
        self._status = meta.status
        self._headless = self._headless or meta.status in BODYLESS
        self._undelivered = meta.content_length
        self._event_stream = not self._headless and b"text/event-stream" in meta.header_block
        self._chunked = self._connection.write_head(self, meta.status, meta.header_block, meta.content_length)

    def _data(self, frame: Frame) -> None:
        payload, flags = frame.payload, frame.flags
        if not flags & PIECES:
            if not self._body_part(payload, flags):
                return
        elif self._chunked:
            self._connection.write_piece(payload)
            self._event_begun = self._event_stream and not bytes(payload[-6:-2]).endswith(_EVENT_ENDS)
        elif not all(self._body_part(piece, flags) for piece in split_pieces(payload)):
            return
        if flags & END:
            if self._chunked:
                self._connection.write_piece(b"0\r\n\r\n")
            self._connection.stream_ended(self)
            self._answered(self._status)
            return
        self._owed += len(payload)
        if self._connection.writable:
            self.client_caught_up()

    def _answered(self, status: int) -> None:
        if status >= _FAILED and self._link is not None:
            self._link.failed(self)
        self._ended(status)

    def _body_part(self, payload: Buffer, flags: int) -> bool:
        """Pass it on; False if it is more, or at the end less, than the application declared."""
        if self._undelivered >= 0 and not self._headless and not self._within_declared(len(payload), flags):
            return False
        if payload and not self._headless:
            self._write_piece(payload)
            self._event_begun = self._event_stream and not bytes(payload[-4:]).endswith(_EVENT_ENDS)
        return True

    def _write_piece(self, payload: Buffer) -> None:
        self._connection.write_piece(PIECE % (len(payload), payload) if self._chunked else payload)

    def _within_declared(self, size: int, flags: int) -> bool:
        """Hold the application to the content-length it declared: else the client would misread what follows."""
        self._undelivered -= size
        if self._undelivered < 0 or (flags & END and self._undelivered):
            self._stop()
            self._connection.abort()
            self._ended(500)
            return False
        return True

    def _error(self, frame: Frame) -> None:
        meta = decode_error(frame.meta)
        if meta.kind == ErrorKind.BACKPRESSURE:
            self._broken(overloaded(meta.status, meta.message, meta.retry_after_s))
        elif meta.kind == ErrorKind.UNAVAILABLE:
            self._broken(unavailable())
        elif meta.kind == ErrorKind.LOST:
            self._broken(replica_died())
        elif meta.kind == ErrorKind.DEADLINE:
            self._broken(timed_out(self.timeout_status, self.request_id, self.timeout_s))
        else:
            debug = self._owner is not None and self._owner.debug
            self._broken(application_error(meta.traceback if debug else ""))

    def replica_lost(self, replica_id: str) -> None:
        self._broken(replica_died())

    def refused(self, error: Exception) -> None:
        if isinstance(error, BackPressureError):
            self._broken(overloaded(error.status_code, error.message, error.retry_after_s))
        else:
            self._broken(unavailable())

    # --- answers of our own -----------------------------------------------------------------------------

    def _broken(self, problem: Problem) -> None:
        """No more comes from a replica. A client that has had a part must see that it is not the whole."""
        if not self.response_started:
            self.answer(problem)
            return
        if self._event_stream and not self._event_begun and self._undelivered < 0:
            self._write_piece(error_event(problem, self.request_id))
        self._connection.abort()
        self._ended(problem.status)

    def answer(self, problem: Problem) -> None:
        block, body = problem.render(self.head, self.request_id)
        self.respond(problem.status, block, body)

    def respond(self, status: int, block: bytes, body: bytes) -> None:
        """A complete answer that no replica gave."""
        if self._owner is None:
            return  # it has its end already
        self._connection.write_whole(self, status, block, body, -1)
        self._ended(status)


class _Nobody:
    """The client of a request that goes on after its client has left."""

    scheme = "http"
    client = server = None
    writable = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_whole(
        self, exchange: RequestExchange, status: int, block: bytes, body: Buffer, declared: int
    ) -> None: ...

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        return False

    def write_piece(self, data: Buffer) -> None: ...

    def stream_ended(self, exchange: RequestExchange) -> None: ...

    def abort(self) -> None: ...


_NOBODY = _Nobody()
