"""A WebSocket to an application that was run with ``serve.run(app, local=True)``."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.websockets import WebSocketDisconnect

from salver.data.replica.asgi import Message
from salver.serve.local.exchange import LocalExchange
from salver.serve.local.response import LocalResponse, headers_by_name

T = TypeVar("T")


class WebSocketRefused(ConnectionError):
    """The handshake was answered over HTTP.

    Attributes:
        response: that answer.
    """

    def __init__(self, response: LocalResponse) -> None:
        super().__init__(f"the WebSocket was refused with status {response.status_code}: {response.text:.200}")
        self.response = response


class LocalWebSocket:
    """The client's end, for the thread of a test: made by ``LocalClient.websocket_connect``, used in a ``with``.

    Every ``receive`` raises WebSocketDisconnect, with code and reason, when the application has closed instead; and
    TimeoutError when nothing comes in time.

    Attributes:
        subprotocol: that the application has chosen; None for none.
        headers: of the accepted handshake, by name in lower case.
    """

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        self.subprotocol: str | None = None
        self.headers: dict[str, str] = {}
        self._closed = False

    def __enter__(self) -> Self:
        """Shake hands.

        Raises:
            WebSocketRefused: the application, or Salver for it, answered over HTTP. Not when it is overloaded or
                unavailable: then the first ``receive`` says so, with code 1013.
        """
        try:
            self._exchange.start({"type": "websocket.connect"})
            self._shake_hands()
        except BaseException:
            self._exchange.close()
            raise
        return self

    def _shake_hands(self) -> None:
        first = self._next()
        if first["type"] == "websocket.http.response.start":
            chunks: list[bytes] = []
            while (message := self._exchange.next()) is not None:
                chunks.append(message["body"])
            raise WebSocketRefused(LocalResponse(first["status"], first["headers"], chunks))
        self.subprotocol = first["subprotocol"]
        self.headers = headers_by_name(first["headers"])

    def send_text(self, text: str) -> None:
        self._exchange.put({"type": "websocket.receive", "text": text})

    def send_bytes(self, data: bytes) -> None:
        self._exchange.put({"type": "websocket.receive", "bytes": data})

    def send_json(self, value: Any) -> None:
        """Send ``value`` as JSON, in a text message."""
        self.send_text(json.dumps(value, separators=(",", ":")))

    def receive(self) -> str | bytes:
        """The next message: str when it is text."""
        message = self._next()
        return message["text"] if "text" in message else message["bytes"]

    def receive_text(self) -> str:
        """The next message. Raises TypeError when it is not text."""
        return _checked(self.receive(), str)

    def receive_bytes(self) -> bytes:
        """The next message. Raises TypeError when it is text."""
        return _checked(self.receive(), bytes)

    def receive_json(self) -> Any:
        """The next message, of either kind, as JSON. Raises ValueError when it is none."""
        return json.loads(self.receive())

    def _next(self) -> Message:
        message = self._exchange.next()
        if message is None:
            raise WebSocketDisconnect(1006)
        if message["type"] == "websocket.close":
            self._closed = True
            raise WebSocketDisconnect(message["code"], message["reason"])
        return message

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; leaving the ``with`` does it too. May be called twice."""
        if not self._closed:
            self._closed = True
            self._exchange.put({"type": "websocket.disconnect", "code": code, "reason": reason})
            while self._exchange.next() is not None:
                pass  # what crossed it on the way

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._exchange.close()


def _checked(message: str | bytes, kind: type[T]) -> T:
    if not isinstance(message, kind):
        raise TypeError(f"a {type(message).__name__} message came, not {kind.__name__}")
    return message
