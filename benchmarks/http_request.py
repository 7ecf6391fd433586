"""What a request looks like, for every client here: wrk, `salver bench`, and our own over a plain socket."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Request:
    path: str = "/"
    method: str = "GET"
    body: bytes = b""
    content_type: str = ""

    def as_post(self, least_body: bytes = b"") -> Request:
        """For servers that take nothing else: with the least body that they accept, unless it has one."""
        if self.body or not least_body:
            return replace(self, method="POST")
        return replace(self, method="POST", body=least_body, content_type="application/json")

    def head(self, *, close: bool = False) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "host: 127.0.0.1"]
        if self.body or self.method == "POST":
            lines.append(f"content-length: {len(self.body)}")
        if self.content_type:
            lines.append(f"content-type: {self.content_type}")
        if close:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def text_of(size: int) -> bytes:
    """A JSON string of so many bytes, which servers that insist on JSON can parse and the others take as bytes."""
    return b'"' + b"a" * (size - 2) + b'"'


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    first_byte_s: float
    """From before the request was sent to the first byte of the body."""


class Connection:
    """A client with one connection that it keeps; blocking, because nothing is more exact."""

    def __init__(self, port: int, timeout: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: Request) -> Answer:
        """Sends it and reads the whole answer. Raises OSError when the server does not answer one."""
        start = time.perf_counter()
        self._socket.sendall(request.head() + request.body)
        received = self._until(b"\r\n\r\n", bytearray())
        head_end = received.index(b"\r\n\r\n") + 4
        if len(received) == head_end and b"content-length: 0\r" not in received.lower():
            received += self._more()
        first_byte_s = time.perf_counter() - start
        head = bytes(received[:head_end]).lower()
        body = self._body(head, received[head_end:])
        return Answer(int(head[9:12]), body, first_byte_s)

    def _body(self, head: bytes, body: bytearray) -> bytes:
        if b"transfer-encoding: chunked" in head:
            return self._chunks(body)
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._more()
        return bytes(body)

    def _until(self, mark: bytes, received: bytearray) -> bytearray:
        while mark not in received:
            received += self._more()
        return received

    def _chunks(self, received: bytearray) -> bytes:
        body = bytearray()
        while True:
            size_end = self._until(b"\r\n", received).index(b"\r\n")
            size = int(received[:size_end], 16)
            while len(received) < size_end + size + 4:
                received += self._more()
            body += received[size_end + 2 : size_end + 2 + size]
            del received[: size_end + size + 4]
            if size == 0:
                return bytes(body)

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        return data


def ask_once(port: int, request: Request, timeout: float = 30.0) -> Answer:
    """Over a connection of its own."""
    with Connection(port, timeout) as connection:
        return connection.ask(request)
