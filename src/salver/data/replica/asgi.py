"""One HTTP request inside a replica, as ASGI sees it: ``receive`` and ``send`` over one stream of a channel.

A response whose body is known when it starts leaves as one RESPONSE frame. Anything else is HEAD, then DATA as the
application sends it, each piece at once, as far as the caller grants credit: a slow client stops the generator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

from salver.data.channel import Channel
from salver.data.http.response import encode_header_block
from salver.errors import ProtocolError, ServeException
from salver.wire.frames import END, Buffer, Frame, Kind
from salver.wire.messages import (
    BODY_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    ErrorMeta,
    RequestMeta,
    ResponseMeta,
    decode_credit,
    encode,
    encode_credit,
)
from salver.wire.pieces import PIECE

Message = MutableMapping[str, Any]
Scope = dict[str, Any]

_DATA = int(Kind.DATA)  # on Python 3.11 naming an enum's member costs 60 ns

WHOLE_AT_MOST = 1024 * 1024
"""Larger bodies are cut into DATA frames even when they are known at once: the proxy must not hold them whole."""


class InvalidASGI(ServeException):
    """The application broke the ASGI protocol: its own fault, answered with 500."""


def final_status(status: object) -> int:
    """``status``, checked here: the proxy has nobody to tell, and an interim one would leave its client waiting."""
    if isinstance(status, int) and 200 <= (code := int(status)) <= 599:
        return code  # a plain number, whatever class of integers the application has for it
    raise InvalidASGI(f"{status!r} cannot be the status of a response: 200 to 599 are allowed")


def build_scope(meta: RequestMeta) -> Scope:
    """The ASGI connection scope of a request."""
    path, _, query = meta.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": meta.http_version,
        "method": meta.method,
        "scheme": meta.scheme,
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": meta.root_path,
        "headers": meta.headers,
        "client": meta.client,
        "server": meta.server,
        "state": {},
    }


class HTTPExchange:
    """The stream of one request, from the replica's side.

    Args:
        channel, stream: where it came from and where the answer goes.
        frame: the REQUEST frame.
    """

    __slots__ = (
        "_body",
        "_body_complete",
        "_body_queue",
        "_channel",
        "_credit",
        "_disconnected",
        "_granted",
        "_head",
        "_in_pieces",
        "_owed",
        "_stream",
        "_wakeup",
        "finished",
        "started",
    )

    def __init__(self, channel: Channel, frame: Frame) -> None:
        self._channel = channel
        self._stream = frame.stream
        self._body: Buffer | None = frame.payload
        """The piece of the body that is next, None while there is none."""
        self._body_queue: deque[Buffer] | None = None
        """Pieces after it; most requests have none."""
        self._body_complete = bool(frame.flags & END)
        self._owed = 0
        self._credit = STREAM_WINDOW_BYTES
        self._wakeup: asyncio.Future[None] | None = None
        self._disconnected = False
        self._head: bytes | None = None
        self._in_pieces = False
        """The answer's length is not known, so that a client is told that of each piece."""
        self.started = False
        """The response's head has been sent."""
        self.finished = False
        self._granted = 0 if self._body_complete else BODY_WINDOW_BYTES
        """Bytes of the body that may still come; the frame that uses up the last one may be longer."""
        if self._granted:
            channel.send(Kind.CREDIT, self._stream, encode_credit(self._granted))

    # --- from the channel -------------------------------------------------------------------------------

    def body_received(self, frame: Frame) -> None:
        """Raises ProtocolError for what was not granted, or comes after the end."""
        if self._granted <= 0:
            raise ProtocolError("more of a request body than was granted")
        self._granted -= len(frame.payload)
        if self._body is None:
            self._body = frame.payload
        elif self._body_queue is None:
            self._body_queue = deque((frame.payload,))
        else:
            self._body_queue.append(frame.payload)
        if frame.flags & END:
            self._body_complete = True
            self._granted = 0
        self._wake()

    def credit_received(self, frame: Frame) -> None:
        self._credit += decode_credit(frame.meta)
        self._wake()

    def disconnect(self) -> None:
        """The caller is gone: ``receive`` says so, ``send`` raises."""
        self._disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _wait(self) -> None:
        if self._wakeup is None or self._wakeup.done():
            self._wakeup = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._wakeup)

    # --- ASGI -------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next piece of the body, then, when the client leaves or the answer is complete, the disconnect."""
        while self._body is None and not self._disconnected and not self.finished:
            await self._wait()
        if self._body is not None and not self._disconnected:
            piece = bytes(self._body)
            self._body = self._body_queue.popleft() if self._body_queue else None
            self._repay(len(piece))
            return {
                "type": "http.request",
                "body": piece,
                "more_body": not self._body_complete or self._body is not None,
            }
        return {"type": "http.disconnect"}

    def _repay(self, size: int) -> None:
        """Grant what user code has read, in steps worth a frame."""
        if self._body_complete:
            return
        self._owed += size
        if self._owed >= BODY_WINDOW_BYTES // 4:
            self._channel.send(Kind.CREDIT, self._stream, encode_credit(self._owed))
            self._granted += self._owed
            self._owed = 0

    async def send(self, message: Message) -> None:
        """Take one ASGI message. Raises OSError when the client is gone, InvalidASGI when out of order."""
        if self._disconnected:
            raise OSError("the client has disconnected")
        kind = message["type"]
        if kind == "http.response.body":
            body, more = message.get("body", b""), message.get("more_body", False)
            if not (more and type(body) is bytes and self.send_piece(body)):
                await self._send_body(body, more=more)
        elif kind == "http.response.start":
            if self._head is not None:
                raise InvalidASGI("http.response.start was sent twice")
            status = final_status(message["status"])
            block, declared = encode_header_block(message.get("headers", ()))
            self._in_pieces = declared is None
            self._head = encode(ResponseMeta(status, block, -1 if declared is None else declared))
        else:
            raise InvalidASGI(f"an ASGI application sent {kind!r}, which means nothing here")

    def send_piece(self, piece: bytes) -> bool:
        """Send a piece of an answer that goes on; False if something is to be waited for, cut or refused first.

        Most pieces go this way, without a message and a coroutine for each.
        """
        if self._credit <= 0 or not 0 < len(piece) <= STREAM_WINDOW_BYTES:
            return False
        if self._head is None or self.finished or self._disconnected:
            return False
        if not self.started:
            self._begin()
        if self._in_pieces:
            piece = PIECE % (len(piece), piece)
            self._credit -= len(piece)
            self._channel.send_piece(self._stream, piece)
        else:
            self._credit -= len(piece)
            self._channel.send(_DATA, self._stream, b"", piece)
        return True

    def _begin(self) -> None:
        self.started = True
        self._channel.send(Kind.HEAD, self._stream, self._head or b"")

    async def _send_body(self, body: Buffer, *, more: bool) -> None:
        if self._head is None or self.finished:
            raise InvalidASGI("http.response.body came before http.response.start or after the end")
        if type(body) is not bytes:
            body = bytes(memoryview(body))  # bytes are what is counted, whatever its items are
        if not self.started:
            if not more and len(body) <= WHOLE_AT_MOST:
                self._end(Kind.RESPONSE, self._head, body)
                return
            self._begin()
        view = memoryview(body)
        while len(view) > STREAM_WINDOW_BYTES:
            await self._send_data(view[:STREAM_WINDOW_BYTES])
            view = view[STREAM_WINDOW_BYTES:]
        if more:
            if view:
                await self._send_data(view)
            return
        await self._credit_above_zero()
        self._end(Kind.DATA, b"", view, END)

    async def _send_data(self, piece: memoryview) -> None:
        await self._credit_above_zero()
        self._credit -= len(piece)
        self._channel.send(Kind.DATA, self._stream, b"", bytes(piece))

    async def _credit_above_zero(self) -> None:
        while self._credit <= 0:
            if self._disconnected:
                raise OSError("the client has disconnected")
            await self._wait()

    # --- shortcuts around ASGI for what a plain handler returned ------------------------------------------

    def respond(self, status: int, header_block: bytes, body: Buffer, declared: int = -1) -> None:
        """Answer with a whole response. Raises InvalidASGI for a status that is none."""
        self._end(Kind.RESPONSE, encode(ResponseMeta(final_status(status), header_block, declared)), body)

    async def respond_in_pieces(self, status: int, header_block: bytes, body: Buffer) -> None:
        """As ``respond``, for a body of more than ``WHOLE_AT_MOST``; raises OSError when the client leaves."""
        self._head = encode(ResponseMeta(final_status(status), header_block, len(body)))
        await self._send_body(body, more=False)

    def check_finished(self) -> None:
        """The application has returned. Raises InvalidASGI when its answer is not complete."""
        if not self.finished:
            raise InvalidASGI("the application returned before it had answered")

    def fail(self, meta: ErrorMeta) -> None:
        """It will not be answered, or not to the end; the ingress tells the client in its own words."""
        if not self.finished:
            self._end(Kind.ERROR, encode(meta), b"")

    def _end(self, kind: int, meta: bytes, payload: Buffer, flags: int = 0) -> None:
        self.finished = True
        if not self._disconnected:
            self._channel.send(kind, self._stream, meta, payload, flags)
        self._wake()
