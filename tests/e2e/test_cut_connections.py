"""What a client sees when an answer is cut, or comes before it has said everything. Real sockets, strict clients."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import pytest

from harness.instance import SalverRun

SOURCE = """
import os
from starlette.requests import Request
from starlette.responses import StreamingResponse
from salver import serve

@serve.deployment
class Desk:
    async def __call__(self, request: Request):
        if request.url.path == "/early":
            return "enough"
        async def pieces():
            yield f"{os.getpid()}|"
            await __import__("asyncio").sleep(60)
        return StreamingResponse(pieces())

app = Desk.bind()
"""


def connected(run: SalverRun) -> socket.socket:
    return socket.create_connection(("127.0.0.1", run.port), timeout=20)


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


def test_a_stream_without_length_or_chunks_is_reset_when_it_is_cut(salver_run: Callable[..., SalverRun]) -> None:
    """To an HTTP/1.0 client the end of the connection is the end of the body: a plain close would be a lie."""
    run = salver_run("app:app", "--port", "0", files={"app.py": SOURCE})
    with connected(run) as client:
        client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        head, _, body = read_until(client, b"|").partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"content-length" not in head
        os.kill(int(body.rstrip(b"|")), signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_an_answer_that_comes_before_the_whole_upload_arrives(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": SOURCE})
    size = 10 * 1024 * 1024
    with connected(run) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        client.sendall(bytes(size))  # all of it, before a byte of the answer is read
        answer = read_until(client, b"enough")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
