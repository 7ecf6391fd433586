"""A client that sends bytes as they are, and reads answers strictly: what is not exactly HTTP/1.1 fails."""

from __future__ import annotations

import re
import socket
from types import TracebackType
from typing import NamedTuple, Self

_WITHIN_S = 30.0
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t -~]*)\r\n")
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t -~\x80-\xff]*)\r\n")
_CHUNK_SIZE = re.compile(rb"([0-9a-f]+)\r\n")
_BODYLESS = frozenset({204, 304})


class Answer(NamedTuple):
    """A response.

    Attributes:
        headers: names in lower case, in order.
    """

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.headers if each == name]

    @property
    def closes(self) -> bool:
        return self.values(b"connection") == [b"close"]


class Wire:
    """One connection to a server on this machine; a context manager.

    Args:
        port: of the server.
        receive_buffer: bytes of the kernel's receive buffer, None for the usual one.
    """

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent apart travels apart
        self.socket.settimeout(_WITHIN_S)
        self.socket.connect(("127.0.0.1", port))
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, *pieces: bytes) -> Self:
        """Send the pieces one by one. What the server no longer wants to hear is no error."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self

    def answer(self, method: bytes = b"GET") -> Answer:
        """The next response, interim ones included. ``method`` is the request's: HEAD is answered without a body."""
        line = self._stream.readline(65536)
        matched = _STATUS_LINE.fullmatch(line)
        assert matched, f"no status line: {line!r}"
        status = int(matched[1])
        headers = self._headers()
        if method == b"HEAD" or status < 200 or status in _BODYLESS:
            return Answer(status, matched[2], headers, b"")
        return Answer(status, matched[2], headers, self._body(dict(headers)))

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = []
        while (line := self._stream.readline(65536)) != b"\r\n":
            matched = _HEADER_LINE.fullmatch(line)
            assert matched, f"no header line: {line!r}"
            headers.append((matched[1].lower(), matched[2]))
        framing = [name for name, _ in headers if name in (b"content-length", b"transfer-encoding", b"date")]
        assert len(framing) == len(set(framing)), headers
        return headers

    def _body(self, headers: dict[bytes, bytes]) -> bytes:
        if b"content-length" in headers:
            assert b"transfer-encoding" not in headers
            return self._exactly(int(headers[b"content-length"]))
        if headers.get(b"transfer-encoding") != b"chunked":
            return self._stream.read()
        body = b""
        while True:
            line = self._stream.readline(65536)
            matched = _CHUNK_SIZE.fullmatch(line)
            assert matched, f"no chunk size: {line!r}"
            body += self._exactly(int(matched[1], 16))
            assert self._exactly(2) == b"\r\n"
            if int(matched[1], 16) == 0:
                return body

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        assert len(data) == size, f"{size} bytes were announced, and then came only {data!r}"
        return data

    def rest(self) -> bytes:
        """Everything up to the end of the connection; a reset is an end as well."""
        try:
            return self._stream.read()
        except ConnectionResetError:
            return b""
