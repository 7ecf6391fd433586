"""A proxy's connection without sockets: a client in memory on one side, on the other replicas that do as told."""

from __future__ import annotations

import asyncio
import io
from http.client import HTTPResponse
from typing import Any, cast

from salver.data.http.connection import HTTPConnection
from salver.data.http.exchange import RequestExchange
from salver.data.http.limits import HTTPLimits
from salver.data.routing.pace import Pace
from salver.wire.frames import END, Buffer, Frame, Kind
from salver.wire.messages import (
    ErrorKind,
    ErrorMeta,
    RequestMeta,
    ResponseMeta,
    decode_credit,
    decode_request,
    encode,
    encode_credit,
)

DATE = b"date: today\r\n"


class MemoryTransport(asyncio.Transport):
    """A transport whose client reads when the test says so."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.sent = bytearray()
        """What the client has received."""
        self._unsent = 0
        self._high = 64 * 1024
        self.client_reads = True
        self.reading = True
        self.closing = False
        self.aborted = False
        self.eof_written = False
        self.lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.1", 5000), "sockname": ("10.0.0.2", 80)}.get(name, default)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.closing
        self.eof_written = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing, "written after close"
        assert not self.eof_written, "written after the end"
        self.sent += data
        if not self.client_reads:
            paused = self._unsent > self._high
            self._unsent += len(data)
            if self._unsent > self._high and not paused:
                self._protocol.pause_writing()

    def catch_up(self) -> None:
        """The client reads everything there is, and goes on reading."""
        self.client_reads = True
        if self._unsent > self._high:
            self._unsent = 0
            self._protocol.resume_writing()
        self._unsent = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 0

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def pause_reading(self) -> None:
        assert not self.closing
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closing
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self._unsent:
                asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.closing = self.aborted = True
        asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._protocol.connection_lost(None)


class ScriptedLink:
    """A replica's link, as far as an exchange uses it; ``channel`` is the link itself."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.cancelled: list[int] = []
        self.pace = Pace()

    @property
    def channel(self) -> ScriptedLink:
        return self

    def send(
        self, kind: int, stream: int = 0, meta: bytes = b"", payload: Buffer = b"", flags: int = 0, load: int = 0
    ) -> None:
        self.frames.append(Frame(kind, flags, stream, load, meta, bytes(payload)))

    def cancel(self, stream: int) -> None:
        self.cancelled.append(stream)

    def request(self) -> tuple[RequestMeta, bytes, bool]:
        """The REQUEST frame: its metadata, the body in it, and whether that is all."""
        frame = self.frames[0]
        assert frame.kind == Kind.REQUEST
        return decode_request(frame.meta), bytes(frame.payload), bool(frame.flags & END)

    def body(self) -> bytes:
        """The body in BODY frames so far."""
        return b"".join(bytes(frame.payload) for frame in self.frames if frame.kind == Kind.BODY)

    @property
    def body_ended(self) -> bool:
        return any(frame.kind == Kind.BODY and frame.flags & END for frame in self.frames)

    def credit(self) -> int:
        """What the exchange granted for the response."""
        return sum(decode_credit(frame.meta) for frame in self.frames if frame.kind == Kind.CREDIT)


class Served:
    """One request that the connection handed over, and the replica that answers it."""

    def __init__(self, exchange: RequestExchange, stream: int) -> None:
        self.exchange = exchange
        self.link = ScriptedLink()
        self.stream = stream

    def dispatch(self) -> ScriptedLink:
        """The router found a replica: a new one each time."""
        self.link = ScriptedLink()
        self.exchange.dispatch(cast(Any, self.link), self.stream)
        return self.link

    def frame(self, kind: int, meta: bytes = b"", payload: bytes = b"", flags: int = 0) -> None:
        self.exchange.frame_received(Frame(kind, flags, self.stream, 0, meta, payload))

    def respond(self, body: bytes = b"", status: int = 200, block: bytes = b"", declared: int = -1) -> None:
        self.frame(Kind.RESPONSE, encode(ResponseMeta(status, block, declared)), body)

    def head(self, status: int = 200, block: bytes = b"", declared: int = -1) -> None:
        self.frame(Kind.HEAD, encode(ResponseMeta(status, block, declared)))

    def data(self, payload: bytes, *, last: bool = False) -> None:
        self.frame(Kind.DATA, b"", payload, END if last else 0)

    def error(self, kind: str = ErrorKind.USER, message: str = "") -> None:
        self.frame(Kind.ERROR, encode(ErrorMeta(kind, "ValueError", message, "Traceback of the application")))

    def grant(self, size: int) -> None:
        self.frame(Kind.CREDIT, encode_credit(size))


class Client:
    """A client's connection to a proxy; ``requests`` are what the proxy is to route."""

    def __init__(self, limits: HTTPLimits | None = None) -> None:
        self.date_line = DATE
        self.draining = False
        self.scheme = "http"
        self.debug = False
        self.ended: list[tuple[RequestExchange, int]] = []
        """Requests that have their end, with its status."""
        self.requests: list[Served] = []
        self.opened = self.closed = 0
        self.answer_at_once: bytes | None = None
        self.connection = HTTPConnection(self, limits or HTTPLimits())
        self.transport = MemoryTransport(self.connection)
        self.connection.connection_made(self.transport)

    # --- Handler ---

    def request_ready(self, exchange: RequestExchange) -> None:
        exchange.begin(self, asyncio.get_running_loop().time())
        exchange.app, exchange.root_path = "app", "/root"
        served = Served(exchange, len(self.requests) + 1)
        self.requests.append(served)
        if self.answer_at_once is not None:
            exchange.respond(200, b"", self.answer_at_once)

    def request_ended(self, exchange: RequestExchange, status: int) -> None:
        self.ended.append((exchange, status))

    def reading_paused(self, connection: HTTPConnection) -> None: ...

    def connection_opened(self, connection: HTTPConnection) -> None:
        self.opened += 1

    def connection_closed(self, connection: HTTPConnection) -> None:
        self.closed += 1

    # --- the client ---

    def send(self, data: bytes) -> None:
        assert self.transport.reading, "the proxy does not read now"
        if not self.transport.closing:
            self.connection.data_received(data)

    def get(self, path: bytes = b"/", *headers: bytes, version: bytes = b"1.1") -> None:
        self.send(request_bytes(b"GET", path, *headers, version=version))

    def hang_up(self) -> None:
        self.transport.abort()

    async def received(self) -> bytes:
        """Everything that was written, since the last time."""
        for _ in range(5):
            await asyncio.sleep(0)
        data = bytes(self.transport.sent)
        self.transport.sent.clear()
        return data

    async def response(self, method: str = "GET") -> Response:
        """The one response that was written, and nothing but it."""
        responses = split_responses(await self.received(), method)
        assert len(responses) == 1, responses
        return responses[0]


class Response:
    """A response as the standard library's client reads it."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.headers}, {self.body[:50]!r})"


class _Socket:
    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return self._stream


class _KeptOpen(io.BytesIO):
    def close(self) -> None:
        """HTTPResponse closes what it was given; the next response is read from the same bytes."""


def split_responses(data: bytes, *methods: str) -> list[Response]:
    """Every response in ``data``; raises when the last one is cut. ``methods`` of the requests, default GET."""
    stream = _KeptOpen(data)
    responses: list[Response] = []
    while stream.tell() < len(data):
        method = methods[len(responses)] if len(responses) < len(methods) else "GET"
        parsed = HTTPResponse(cast(Any, _Socket(cast(Any, stream))), method=method)
        parsed.begin()
        responses.append(Response(parsed.status, parsed.getheaders(), parsed.read()))
    return responses


def request_bytes(method: bytes, path: bytes, *headers: bytes, version: bytes = b"1.1", body: bytes = b"") -> bytes:
    lines = [b"%s %s HTTP/%s" % (method, path, version), b"host: h", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
