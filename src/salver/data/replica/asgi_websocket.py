"""A WebSocket inside a replica, as ASGI sees it, and the life of the application that serves it.

Until the application accepts, its stream is an HTTP request that may be answered like any other: 403 when it closes
instead, or the response that it sends (``websocket.http.response``). HEAD with status 101 accepts. From then on every
BODY is a message of the client and every DATA one of the application, and END, with a code, is the close of either
side. Both directions are held to credit: a slow client stops the application's ``send``, an application that does not
receive stops the client. A message is sent whole as soon as there is any credit.

Without its client the application hears ``websocket.disconnect`` and may clean up; if it has not ended ``GRACE_S``
later, it is cancelled. The same when it is cancelled from outside.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.websockets import WebSocketDisconnect

from salver.data.channel import Channel
from salver.data.http.response import encode_header_block
from salver.data.replica.asgi import HTTPExchange, InvalidASGI, Message, Scope, build_scope
from salver.data.replica.lifespan import ASGIApp
from salver.wire.frames import END, TEXT, Buffer, Frame, Kind
from salver.wire.messages import (
    BODY_WINDOW_BYTES,
    MESSAGE_OVERHEAD_BYTES,
    STREAM_WINDOW_BYTES,
    CloseMeta,
    RequestMeta,
    ResponseMeta,
    decode_close,
    decode_credit,
    encode,
    encode_credit,
)

GRACE_S = 3.0
"""How long an application may go on after its client has left."""

_MESSAGE_AT_MOST = 64 * 1024 * 1024  # the proxy holds a message as a whole
_REASON_AT_MOST = 123  # RFC 6455: a control frame has 125 bytes, two of them are the code
_REFUSED = b"The application refused this WebSocket."
_NOT_ASGI = b"This application does not speak WebSocket: its ingress is not an ASGI application."
_PLAIN_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_VANISHED = CloseMeta(1006)


def build_websocket_scope(meta: RequestMeta) -> Scope:
    """The ASGI connection scope of a WebSocket."""
    scope = build_scope(meta)
    del scope["method"]
    offered = b",".join(value for name, value in meta.headers if name == b"sec-websocket-protocol")
    scope["type"] = "websocket"
    scope["subprotocols"] = [name for item in offered.decode("latin-1").split(",") if (name := item.strip())]
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


class WebSocketSession:
    """One WebSocket, from its handshake to its close.

    Args:
        http: the request that asks for it; answers everything but a 101.
        channel, stream: where it came from.
    """

    def __init__(self, http: HTTPExchange, channel: Channel, stream: int) -> None:
        self._http = http
        self._channel = channel
        self._stream = stream
        self._inbox: deque[tuple[Buffer, int]] = deque()
        self._announced = False
        self._accepted = False
        self._closed: CloseMeta | None = None
        """How it ended, by whichever side."""
        self._credit = STREAM_WINDOW_BYTES
        self._owed = 0
        self._changed = asyncio.Event()
        self.client_left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- from the channel -------------------------------------------------------------------------------

    def body_received(self, frame: Frame) -> None:
        if not frame.flags & END:
            self._inbox.append((frame.payload, frame.flags))
        elif self._closed is None:
            self._client_gone(decode_close(frame.meta))
        self._changed.set()

    def credit_received(self, frame: Frame) -> None:
        if not self._accepted:
            self._http.credit_received(frame)
        self._credit += decode_credit(frame.meta)
        self._changed.set()

    def disconnect(self) -> None:
        """The caller is gone without a word."""
        self._http.disconnect()
        if self._closed is None:
            self._client_gone(_VANISHED)
        self._changed.set()

    def _client_gone(self, close: CloseMeta) -> None:
        self._closed = close
        self.client_left.set_result(None)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- ASGI -------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The connect, every message, and, for ever after the close of either side, the disconnect."""
        if not self._announced:
            self._announced = True
            return {"type": "websocket.connect"}
        while not self._inbox and self._closed is None and not self._http.finished:
            await self._change()
        if self._inbox:
            payload, flags = self._inbox.popleft()
            self._repay(len(payload))
            if flags & TEXT:
                return {"type": "websocket.receive", "text": str(payload, "utf-8")}
            return {"type": "websocket.receive", "bytes": bytes(payload)}
        close = self._closed or _VANISHED
        return {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}

    def _repay(self, size: int) -> None:
        """Grant what the application has received, in steps worth a frame."""
        self._owed += size + MESSAGE_OVERHEAD_BYTES
        if self._owed >= BODY_WINDOW_BYTES // 4 and self._closed is None:
            self._channel.send(Kind.CREDIT, self._stream, encode_credit(self._owed))
            self._owed = 0

    async def send(self, message: Message) -> None:
        """Take one ASGI message. Raises OSError when the client is gone, InvalidASGI for what makes no sense."""
        kind = message["type"]
        if self.client_left.done():
            if kind == "websocket.close":
                return
            raise OSError("the client has disconnected")
        if self._closed is not None:
            raise InvalidASGI(f"{kind} came after websocket.close")
        if kind == "websocket.send":
            await self._send_message(message)
        elif kind == "websocket.close":
            self._send_close(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind in {"websocket.http.response.start", "websocket.http.response.body"} and not self._accepted:
            await self._http.send({**message, "type": kind.removeprefix("websocket.")})
            self._changed.set()
        else:
            raise InvalidASGI(f"an ASGI application sent {kind!r}, which means nothing here")

    def _accept(self, message: Message) -> None:
        if self._accepted or self._http.finished:
            raise InvalidASGI("websocket.accept came after websocket.accept or after a response")
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        if any(name.lower().startswith(b"sec-websocket-") for name, _ in headers):
            raise InvalidASGI("websocket.accept has a sec-websocket- header: those are the server's")
        if message.get("subprotocol") is not None:
            headers.append((b"sec-websocket-protocol", message["subprotocol"].encode("latin-1")))
        block, _ = encode_header_block(headers)
        self._accepted = True
        self._channel.send(Kind.HEAD, self._stream, encode(ResponseMeta(101, block)))

    async def _send_message(self, message: Message) -> None:
        data, text, flags = message.get("bytes"), message.get("text"), 0
        if not self._accepted:
            raise InvalidASGI("websocket.send came before websocket.accept")
        if data is None:
            if text is None:
                raise InvalidASGI("websocket.send has neither bytes nor text")
            data, flags = text.encode(), TEXT
        if len(data) > _MESSAGE_AT_MOST:
            raise InvalidASGI(f"a WebSocket message of {len(data)} bytes: at most {_MESSAGE_AT_MOST} are allowed")
        while self._credit <= 0:
            await self._change()
            if self._closed is not None:
                raise OSError("the client has disconnected")
        self._credit -= len(data) + MESSAGE_OVERHEAD_BYTES
        self._channel.send(Kind.DATA, self._stream, b"", data, flags)

    def _send_close(self, message: Message) -> None:
        if not self._accepted:
            self.refuse(403, _REFUSED)
            return
        close = CloseMeta(message.get("code", 1000), message.get("reason") or "")
        if not _may_be_sent(close.code):
            raise InvalidASGI(f"{close.code!r} is not a close code that may be sent (RFC 6455, section 7.4)")
        if len(close.reason.encode()) > _REASON_AT_MOST:
            raise InvalidASGI(f"the reason of a close has at most {_REASON_AT_MOST} bytes")
        self._end(close)

    def refuse(self, status: int, text: bytes) -> None:
        """Answer the handshake with an error."""
        self._closed = _VANISHED
        self._http.respond(status, _PLAIN_TEXT, text)
        self._changed.set()

    def _end(self, close: CloseMeta) -> None:
        self._closed = self._closed or close
        self._inbox.clear()
        self._http.finished = True
        self._channel.send(Kind.DATA, self._stream, encode(close), b"", END)
        self._changed.set()

    # --- the end ----------------------------------------------------------------------------------------

    def application_returned(self) -> None:
        """A WebSocket that was accepted and is still open closes: with 1000, as with other servers.

        Without its client nobody hears that, unless it is this replica that ends, not the client.
        """
        if self._accepted and not self._http.finished:
            self._end(CloseMeta(1012 if self.client_left.done() else 1000))


def _may_be_sent(code: object) -> bool:
    if not isinstance(code, int):
        return False
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


async def serve_websocket(application: ASGIApp | None, meta: RequestMeta, session: WebSocketSession) -> None:
    """Run the application for one WebSocket. Raises what it raises, unless that only says that its client left."""
    if application is None:
        session.refuse(400, _NOT_ASGI)
        return
    error = await _run(application, build_websocket_scope(meta), session)
    if error is None or (session.client_left.done() and isinstance(error, _NOTICED)):
        session.application_returned()
    else:
        raise error


_NOTICED = (OSError, WebSocketDisconnect, asyncio.CancelledError)


async def _run(application: ASGIApp, scope: Scope, session: WebSocketSession) -> BaseException | None:
    """The application in a task of its own, so that it outlives its client, and a cancellation, by the grace."""
    task = asyncio.create_task(_outcome(application, scope, session))
    try:
        await asyncio.wait({task, session.client_left}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        session.disconnect()
    try:
        await asyncio.wait({task}, timeout=GRACE_S)
    except asyncio.CancelledError:
        pass  # cancelled again: no more grace
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    return asyncio.CancelledError() if task.cancelled() else task.result()


async def _outcome(application: ASGIApp, scope: Scope, session: WebSocketSession) -> BaseException | None:
    """What it raised, as a value: SystemExit and KeyboardInterrupt must not come out of a task."""
    try:
        await application(scope, session.receive, session.send)
    except BaseException as error:  # noqa: BLE001 - as above
        return error
    return None
