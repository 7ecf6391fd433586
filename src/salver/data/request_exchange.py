"""One HTTP request on its way through the proxy: from the client's connection to a replica and back."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from salver.data.channel import Channel
from salver.data.context import accept_request_id
from salver.data.http1 import RequestHead
from salver.data.http_response import BODYLESS
from salver.data.replica_link import ReplicaLink
from salver.errors import BackPressureError
from salver.wire.frames import END, Frame, Kind
from salver.wire.messages import RequestMeta, decode_credit, decode_response, encode, encode_credit

INLINE_BODY_BYTES = 64 * 1024
"""A body up to this size is received whole and sent with the REQUEST frame."""

_READ_AHEAD_BYTES = 256 * 1024
_RETRY_AFTER = b"retry-after: 1\r\n"
_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


class Client(Protocol):
    """What a request needs of the connection that it came by (``http_server.HTTPConnection``)."""

    client: tuple[str, int] | None
    server: tuple[str, int] | None

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what was written."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: bytes, declared: int) -> None:
        """The complete response."""
        ...

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        """The head of a streamed response; returns whether the body goes out in chunks."""
        ...

    def write_piece(self, data: bytes) -> None:
        """Part of a streamed response."""
        ...

    def stream_ended(self, exchange: RequestExchange) -> None: ...

    def abort(self) -> None:
        """Cut the connection: the client must not take what it has for the whole."""
        ...


class RequestExchange:
    """An ``Exchange`` for the router, fed by the client's connection.

    A body that streams is not sent before the replica granted credit for it: until then it is all here, so that
    a request that was answered BUSY can start elsewhere from its first byte.
    """

    __slots__ = (
        "_body",
        "_body_credit",
        "_body_sent",
        "_chunked",
        "_connection",
        "_headless",
        "_held",
        "_link",
        "_owed",
        "_reading_paused",
        "_stream",
        "_undelivered",
        "abandoned",
        "app",
        "attempts",
        "begun",
        "body_complete",
        "closes",
        "ends_with_connection",
        "head",
        "model_id",
        "request_id",
        "response_started",
        "root_path",
        "session_id",
        "streams_body",
    )

    def __init__(self, connection: Client, head: RequestHead) -> None:
        self._connection = connection
        self.head = head
        self.request_id = accept_request_id(head.request_id)
        self.body_complete = False
        self.streams_body = head.chunked or (head.content_length or 0) > INLINE_BODY_BYTES
        self.begun = False
        self.abandoned = False
        self.closes = False
        self.ends_with_connection = False
        """The response has neither a length nor chunks: its end is the connection's."""
        self.response_started = False
        self.model_id = ""
        self.session_id = ""
        self.attempts = 0
        self.app = ""
        self.root_path = ""
        self._body: deque[bytes] = deque()
        self._held = 0
        self._body_credit = 0
        self._body_sent = False
        self._reading_paused = False
        self._link: ReplicaLink | None = None
        self._stream = 0
        self._chunked = False
        self._headless = head.method == "HEAD"
        self._owed = 0
        self._undelivered = -1
        """Bytes that a streamed response has declared and not yet sent; -1 when it declared none."""

    @property
    def request_id_line(self) -> bytes:
        return b"x-request-id: %s\r\n" % self.request_id.encode()

    # --- the request, from the client -------------------------------------------------------------------

    def body_received(self, chunk: bytes) -> None:
        self._body.append(chunk)
        self._held += len(chunk)
        if self.streams_body:
            self.pump_body()
            if self._held > _READ_AHEAD_BYTES and not self._reading_paused:
                self._reading_paused = True
                self._connection.pause_reading()

    def pump_body(self) -> None:
        """Send as much of the body as the replica granted."""
        link = self._link
        if link is None or link.channel is None or not self.streams_body:
            return
        while self._body and self._body_credit > 0:
            chunk = self._body.popleft()
            self._held -= len(chunk)
            self._body_credit -= len(chunk)
            self._send_body(link.channel, chunk, last=self.body_complete and not self._body)
        if self.body_complete and not self._body and self._body_credit > 0 and not self._body_sent:
            self._send_body(link.channel, b"", last=True)
        if self._reading_paused and self._held <= _READ_AHEAD_BYTES // 2:
            self._reading_paused = False
            self._connection.resume_reading()

    def _send_body(self, channel: Channel, chunk: bytes, *, last: bool) -> None:
        self._body_sent = last
        channel.send(Kind.BODY, self._stream, b"", chunk, END if last else 0)

    def client_gone(self) -> None:
        """The client hung up: whatever runs for it stops."""
        self.abandoned = True
        if self._link is not None:
            self._link.cancel(self._stream)
            self._link = None

    def client_caught_up(self) -> None:
        """The client read what was written: let the replica send more."""
        if self._owed and self._link is not None and self._link.channel is not None:
            self._link.channel.send(Kind.CREDIT, self._stream, encode_credit(self._owed))
            self._owed = 0

    # --- Exchange: to and from the replica --------------------------------------------------------------

    @property
    def retryable(self) -> bool:
        return not self.response_started and not self.streams_body

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        self._body_credit = 0
        self._body_sent = False
        head = self.head
        connection = self._connection
        meta = RequestMeta(
            head.method,
            head.target,
            head.headers,
            self.request_id,
            head.http_version,
            self.root_path,
            self.app,
            "http",
            connection.client,
            connection.server,
        )
        channel = link.channel
        assert channel is not None
        if self.streams_body:
            channel.send(Kind.REQUEST, stream, encode(meta))
        else:
            body = self._body
            payload = body[0] if len(body) == 1 else b"".join(body)
            channel.send(Kind.REQUEST, stream, encode(meta), payload, END)

    def frame_received(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.RESPONSE:
            self._link = None
            meta = decode_response(frame.meta)
            self._connection.write_whole(
                self, meta.status, meta.header_block, bytes(frame.payload), meta.content_length
            )
        elif kind == Kind.DATA:
            self._data(frame)
        elif kind == Kind.HEAD:
            meta = decode_response(frame.meta)
            self.response_started = True
            self._headless = self._headless or meta.status in BODYLESS
            self._undelivered = meta.content_length
            self._chunked = self._connection.write_head(self, meta.status, meta.header_block, meta.content_length)
        elif kind == Kind.CREDIT:
            self._body_credit += decode_credit(frame.meta)
            self.pump_body()
        else:
            self._link = None
            self._broken(500, "Internal Server Error")

    def _data(self, frame: Frame) -> None:
        payload = bytes(frame.payload)
        if self._undelivered >= 0 and not self._headless and not self._within_declared(len(payload), frame.flags):
            return
        if payload and not self._headless:
            self._connection.write_piece(b"%x\r\n%s\r\n" % (len(payload), payload) if self._chunked else payload)
        if frame.flags & END:
            self._link = None
            if self._chunked:
                self._connection.write_piece(b"0\r\n\r\n")
            self._connection.stream_ended(self)
            return
        self._owed += len(payload)
        if self._connection.writable:
            self.client_caught_up()

    def _within_declared(self, size: int, flags: int) -> bool:
        """Hold the application to the content-length it declared: else the client would misread what follows."""
        self._undelivered -= size
        if self._undelivered < 0 or (flags & END and self._undelivered):
            if self._link is not None:
                self._link.cancel(self._stream)
                self._link = None
            self._connection.abort()
            return False
        return True

    def replica_lost(self, replica_id: str) -> None:
        self._link = None
        self._broken(502, "The replica died while it handled this request.")

    def refused(self, error: Exception) -> None:
        if isinstance(error, BackPressureError):
            self.answer(error.status_code, str(error), _RETRY_AFTER if error.status_code == 503 else b"")
        else:  # why is for the log and for status: it names deployments and may hold a line of the user's code
            self.answer(503, "The application is unavailable.", _RETRY_AFTER)

    def _broken(self, status: int, text: str) -> None:
        if self.response_started:
            self._connection.abort()
        else:
            self.answer(status, text)

    def answer(self, status: int, text: str, extra: bytes = b"", content_type: bytes = _TEXT) -> None:
        """Answer from the proxy itself."""
        if not self.abandoned:
            self._connection.write_whole(self, status, content_type + extra, text.encode(), -1)
