"""HTTP/1.1 of the control API, byte by byte: order, bodies, what is not read, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from data.scene import run
from salver.controller.api import connection
from salver.controller.api.connection import SameUserConnection
from salver.controller.api.listeners import Listener

WITHIN_S = 30.0


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, without_body: bool = False) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WITHIN_S)).decode()
        line, *fields = head.splitlines()[:-1]
        headers = dict(field.lower().split(": ", 1) for field in fields)
        size = 0 if without_body else int(headers.get("content-length", 0))
        return int(line.split()[1]), headers, await asyncio.wait_for(self.reader.readexactly(size), WITHIN_S)

    async def rest(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), WITHIN_S)


class World:
    """What the application below is told, and tells."""

    def __init__(self, listener: Listener, path: str) -> None:
        self.listener = listener
        self.path = path
        self.clients: list[Client] = []
        self.has_begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.left = asyncio.Event()

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_unix_connection(self.path)))
        return self.clients[-1]


@asynccontextmanager
async def serving() -> AsyncGenerator[World]:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.url.path == "/wait":
            world.has_begun.set()
            await world.may_answer.wait()
        elif request.url.path == "/unread":
            await PlainTextResponse("no", 413)(scope, receive, send)
            return
        elif request.url.path == "/fails":
            raise ValueError("on purpose")
        try:
            body = await request.body()
        except ClientDisconnect:
            world.left.set()
            return
        query = f"?{request.url.query}" if request.url.query else ""
        await PlainTextResponse(f"{request.method} {request.url.path}{query} {len(body)}")(scope, receive, send)

    with tempfile.TemporaryDirectory(prefix="sv-") as folder, socket.socket(socket.AF_UNIX) as listening:
        path = f"{folder}/control.sock"
        listening.bind(path)
        listening.listen()
        world = World(Listener(application, SameUserConnection, [listening]), path)
        served = asyncio.create_task(world.listener.serve())
        try:
            yield world
        finally:
            world.may_answer.set()
            world.listener.stop()
            await asyncio.wait_for(served, WITHIN_S)
            for client in world.clients:
                client.writer.close()


def test_one_connection_carries_many_requests() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            for number in range(3):
                client.send(b"GET /a%%20b?n=%d HTTP/1.1\r\n\r\n" % number)
                status, headers, body = await client.answer()
                assert (status, body) == (200, b"GET /a b?n=%d 0" % number)
                assert "date" in headers
                assert "connection" not in headers

    run(scene())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            post = b"POST /2 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"
            client.send(b"GET /wait HTTP/1.1\r\n\r\n" + post + b"GET /3 HTTP/1.1\r\nconnection: close\r\n\r\n")
            await asyncio.wait_for(world.has_begun.wait(), WITHIN_S)
            world.may_answer.set()
            bodies = [(await client.answer())[2] for _ in range(3)]
            assert bodies == [b"GET /wait 0", b"POST /2 3", b"GET /3 0"]
            assert await client.rest() == b""

    run(scene())


def test_a_body_is_read_as_it_is_taken() -> None:
    """Chunked or not; one larger than what waits in memory."""

    async def scene() -> None:
        size = 3 << 20
        async with serving() as world:
            client = await world.connect()
            client.send(b"PUT /long HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
            assert (await client.answer())[2] == b"PUT /long %d" % size
            client.send(b"PUT /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            assert (await client.answer())[2] == b"PUT /c 5"

    run(scene())


def test_who_asks_whether_to_go_on_is_told() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"PUT /x HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            assert (await client.answer())[0] == 100
            client.send(b"ok")
            assert (await client.answer())[2] == b"PUT /x 2"

    run(scene())


def test_the_answer_to_head_has_no_body() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"HEAD /x HTTP/1.1\r\n\r\nGET /y HTTP/1.1\r\n\r\n")
            assert (await client.answer(without_body=True))[1]["content-length"] == str(len("HEAD /x 0"))
            assert (await client.answer())[2] == b"GET /y 0"

    run(scene())


def test_what_nobody_reads_of_a_body_is_passed_over() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"PUT /unread HTTP/1.1\r\ncontent-length: 200000\r\n\r\n")
            assert (await client.answer())[0] == 413
            client.send(bytes(200_000) + b"GET /next HTTP/1.1\r\n\r\n")
            assert (await client.answer())[2] == b"GET /next 0"

    run(scene())


def test_an_upgrade_is_not_made() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"GET /x HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            assert (await client.answer())[0] == 200
            assert await client.rest() == b""

    run(scene())


@pytest.mark.parametrize("sent", [b"NONE /x HTTP/1.1\r\n\r\n", b"GET /x HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
def test_what_is_not_http_is_refused(sent: bytes) -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(sent)
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (400, "close")
            assert await client.rest() == b""

    run(scene())


def test_a_head_that_does_not_come_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first, nor one that has begun, nor the rest of a body that nobody wants."""

    async def scene() -> None:
        async with serving() as world:
            unread = b"PUT /unread HTTP/1.1\r\ncontent-length: 9\r\n\r\n"
            for sent in (b"", b"GET /x HT", unread + b"12", b"GET /x HTTP/1.1\r\n\r\n\r\n"):
                client = await world.connect()
                client.send(sent)
                try:
                    await client.rest()
                except ConnectionResetError:
                    pass

    monkeypatch.setattr(connection, "_HEAD_WITHIN_S", 0.1)
    run(scene())


def test_who_leaves_takes_the_request_along() -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"PUT /x HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")
            client.writer.close()
            await asyncio.wait_for(world.left.wait(), WITHIN_S)

    run(scene())


def test_an_application_that_fails_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving() as world:
            client = await world.connect()
            client.send(b"GET /fails HTTP/1.1\r\n\r\n")
            assert await client.rest() == b""

    run(scene())
    assert "on purpose" in caplog.text


def test_the_end_lets_a_request_have_its_answer() -> None:
    async def scene() -> None:
        async with serving() as world:
            idle, busy = await world.connect(), await world.connect()
            busy.send(b"GET /wait HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(world.has_begun.wait(), WITHIN_S)
            world.listener.stop()
            assert await idle.rest() == b""
            world.may_answer.set()
            assert (await busy.answer())[2] == b"GET /wait 0"
            assert await busy.rest() == b""

    run(scene())


def test_the_end_waits_for_nobody_for_ever() -> None:
    async def scene() -> None:
        async with serving() as world:
            busy = await world.connect()
            busy.send(b"GET /wait HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(world.has_begun.wait(), WITHIN_S)
            world.listener.stop()
            try:
                assert await busy.rest() == b""
            except ConnectionResetError:
                pass

    run(scene())
