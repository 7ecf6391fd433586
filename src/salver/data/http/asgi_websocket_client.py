"""The client of a WebSocket that came as an ASGI call; its messages are whole, so there is no protocol to speak."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from salver.data.http.asgi_client import ASGIClient, header_pairs
from salver.data.http.exchange import RequestExchange
from salver.data.http.head import RequestHead
from salver.data.http.websocket_exchange import WebSocketExchange
from salver.data.replica.asgi import Message, Scope

_VANISHED = 1006
_TOO_LARGE = 1009
_PROTOCOL = b"sec-websocket-protocol"
_REFUSAL = "websocket.http.response"
"""The ASGI extension by which a handshake is answered over HTTP; servers without it answer 403."""


class ASGIWebSocketClient(ASGIClient):
    """The ``WebSocketClient`` of one call.

    Args:
        scope: of the call.
        head: of the handshake.
        message_bytes: the largest message that is taken.
    """

    draining = False

    def __init__(self, scope: Scope, head: RequestHead, message_bytes: int) -> None:
        super().__init__(scope)
        self.scheme = scope.get("scheme", "ws")
        self.exchange = WebSocketExchange(self, RequestExchange(self, head))
        self._message_bytes = message_bytes
        self._can_refuse = _REFUSAL in (scope.get("extensions") or {})
        self._opened = False

    async def read(self, receive: Callable[[], Awaitable[Message]]) -> None:
        """Pass on what the client sends until it leaves."""
        exchange = self.exchange
        code, reason = _VANISHED, ""
        while True:
            await self.may_read.wait()
            message = await receive()
            if message["type"] != "websocket.receive":
                code, reason = message.get("code", code), message.get("reason") or ""
                break
            text = message.get("text")
            payload: bytes = message["bytes"] if text is None else text.encode()
            if not self._opened:
                exchange.client_spoke_early()
            elif len(payload) > self._message_bytes:
                self.close(_TOO_LARGE, "")
                break
            else:
                exchange.message_received(payload, text=text is not None)
        exchange.client_closed(code, reason)

    def open(self, block: bytes) -> None:
        headers = header_pairs(self.exchange, block)
        chosen = [value.decode("latin-1") for name, value in headers if name == _PROTOCOL]
        others = [header for header in headers if header[0] != _PROTOCOL]
        self._opened = True
        self._streaming = self.exchange
        self._say({"type": "websocket.accept", "subprotocol": chosen[0] if chosen else None, "headers": others})

    def write_message(self, payload: bytes, *, text: bool) -> None:
        content = {"text": payload.decode()} if text else {"bytes": payload}
        self._say({"type": "websocket.send", **content}, len(payload))

    def close(self, code: int, reason: str) -> None:
        self._say({"type": "websocket.close", "code": code, "reason": reason})

    # --- a handshake that is answered over HTTP -----------------------------------------------------------

    def _start(self, exchange: RequestExchange, status: int, block: bytes, length: int) -> None:
        if self._can_refuse:
            headers = header_pairs(exchange, block)
            self._say({"type": f"{_REFUSAL}.start", "status": status, "headers": headers})
        else:
            self._say({"type": "websocket.close", "code": 1000, "reason": ""})

    def _body(self, data: bytes, *, more: bool) -> None:
        if self._can_refuse:
            self._say({"type": f"{_REFUSAL}.body", "body": data, "more_body": more}, len(data))
