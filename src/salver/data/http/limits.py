"""What a client may send: the limits of the HTTP/1 edge, and the refusal of what breaks them."""

from __future__ import annotations

from msgspec import Struct

from salver.errors import ServeException


class HTTPLimits(Struct, frozen=True):
    """How much one connection may ask of us. The parser enforces sizes and counts, the server the times.

    Attributes:
        request_line: bytes of a request line, without its line end (else 414).
        header_bytes: bytes of a header section, line ends and the empty line included (else 431). The same
            number bounds the trailers of a chunked body, and all of its chunk extensions taken together.
        header_fields: fields in a header section, and in a trailer section (else 431).
        body: bytes of a request body, chunk framing not counted (else 413).
        header_timeout_s: seconds from the first byte of a request to the end of its header section.
        body_idle_timeout_s: seconds without a byte while a body is read.
        keep_alive_timeout_s: seconds that a connection may idle between requests.
        keep_alive_requests: requests that one connection may carry.
        websocket_message: bytes of a WebSocket message, after decompression (else close 1009).
        websocket_ping_s: seconds between two pings of a WebSocket.
        websocket_pong_s: seconds without any sign of life after a ping (then close 1001).
    """

    request_line: int = 8192
    header_bytes: int = 32768
    header_fields: int = 100
    body: int = 64 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_idle_timeout_s: float = 30.0
    keep_alive_timeout_s: float = 90.0
    keep_alive_requests: int = 10_000
    websocket_message: int = 16 * 1024 * 1024
    websocket_ping_s: float = 20.0
    websocket_pong_s: float = 20.0


class BadRequest(ServeException):
    """The client broke HTTP/1 or a limit: answer ``status``, then close, since the rest cannot be trusted.

    Args:
        status: the HTTP status to answer, 400 to 505.
        message: what was wrong with the request, one sentence without any of the client's bytes.

    Attributes:
        headers: of a head whose lines could be read and whose meaning was refused; for how to answer, nothing else.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers: list[tuple[bytes, bytes]] = []

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"
