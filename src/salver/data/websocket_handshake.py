"""The server's side of the WebSocket handshake (RFC 6455, section 4.2), around the ``websockets`` library.

The request has been parsed already, and more strictly than the library would: it gets the fields that concern it.
"""

from __future__ import annotations

import logging

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from salver.data.http_head import RequestHead

_FIELDS = frozenset((b"connection", b"upgrade", b"origin", b"host"))
_OF_THE_ANSWER = frozenset(("date", "connection", "content-length"))

_logger = logging.getLogger("salver.websocket")
_logger.setLevel(logging.WARNING)  # the library tells of every connection at INFO


class HandshakeRefused(Exception):  # noqa: N818 - it is an answer
    """The client's handshake is wrong: answer it over HTTP, and close."""

    def __init__(self, status: int, block: bytes, body: bytes) -> None:
        super().__init__(status, block, body)
        self.status = status
        self.block = block
        self.body = body


class Handshake:
    """A client's handshake, checked: all that is missing is the application's consent.

    Args:
        head: of the client's request.
        message_bytes: the largest message that will be received, after decompression.

    Raises:
        HandshakeRefused: it breaks the protocol.
    """

    def __init__(self, head: RequestHead, message_bytes: int) -> None:
        # Windows of 4 KiB and little else: a connection costs some 20 KB, not the 300 of zlib's defaults.
        deflate = ServerPerMessageDeflateFactory(
            server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
        )
        self.protocol = ServerProtocol(extensions=[deflate], max_size=message_bytes, logger=_logger)
        self._response = self._check(head)

    def _check(self, head: RequestHead) -> Response:
        lines = [f"{head.method} / HTTP/{head.http_version}".encode()]
        for name, value in head.headers:
            if name in _FIELDS or name.startswith(b"sec-websocket-"):
                lines.append(name + b": " + value)
        self.protocol.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
        events = self.protocol.events_received()
        if not events or not isinstance(events[0], Request):
            raise HandshakeRefused(400, b"", b"Failed to open a WebSocket connection: the request is malformed.\n")
        response = self.protocol.accept(events[0])
        if response.status_code != 101:
            pairs = [(name, value) for name, value in response.headers.raw_items() if name.lower() not in _OF_THE_ANSWER]
            pairs.append(("Sec-WebSocket-Version", "13"))
            block = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs)
            raise HandshakeRefused(response.status_code, block, bytes(response.body or b""))
        return response

    def accept(self, block: bytes) -> bytes:
        """The head of the 101 answer, with more header lines; the protocol is open then."""
        self.protocol.send_response(self._response)
        head = b"".join(self.protocol.data_to_send())
        return head[:-2] + block + b"\r\n"
