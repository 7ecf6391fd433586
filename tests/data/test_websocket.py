"""WebSockets between a client, the proxy and a replica: the handshake, messages, and every way in which one ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketDisconnect

from salver.data.replica import asgi_websocket

from .scene import run
from .websocket_scene import (
    ACCEPT_OF_KEY,
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    KEY_HEADER,
    PING,
    PONG,
    TEXT,
    WireFrame,
    close_payload,
    echo,
    frame,
    serving,
)

# --- the handshake --------------------------------------------------------------------------------------


def test_the_handshake_and_its_answer() -> None:
    async def test() -> None:
        scopes: list[Any] = []

        async def handler(websocket: WebSocket) -> None:
            scopes.append(websocket.scope)
            await websocket.accept("b", headers=[(b"x-own", b"1"), (b"upgrade", b"no")])
            await websocket.close()

        async with serving(handler) as site, await site.connect() as wire:
            head = await wire.open(b"/app/%78?q=1", b"Sec-WebSocket-Protocol: a, b", b"X-Request-ID: mine")
            assert head.headers["sec-websocket-accept"] == ACCEPT_OF_KEY.decode()
            assert head.headers["upgrade"] == "websocket"
            assert head.headers["sec-websocket-protocol"] == "b"
            assert head.headers["x-own"] == "1"
            assert head.headers["x-request-id"] == "mine"
            assert "content-length" not in head.headers
            assert await wire.closed() == (1000, "")
        [scope] = scopes
        assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "1.1")
        assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/app/x", b"/app/%78", "/app")
        assert (scope["query_string"], scope["subprotocols"]) == (b"q=1", ["a", "b"])
        assert (b"host", b"h") in scope["headers"]
        assert scope["client"][0] == "127.0.0.1"
        assert scope["server"] == ("127.0.0.1", site.port)
        assert "websocket.http.response" in scope["extensions"]
        assert "method" not in scope

    run(test())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HANDSHAKE[:2] + HANDSHAKE[3:], 400),
        (HANDSHAKE[:3], 400),
        ((*HANDSHAKE[:3], b"Sec-WebSocket-Version: 12"), 400),
        ((*HANDSHAKE, KEY_HEADER), 400),
        ((HANDSHAKE[0], HANDSHAKE[1], b"Sec-WebSocket-Key: short", HANDSHAKE[3]), 400),
        ((*HANDSHAKE, b"Sec-WebSocket-Extensions: ;;"), 400),
        ((*HANDSHAKE, b"Sec-WebSocket-Protocol: " + b"a" * 9000), 400),
        ((*HANDSHAKE, b"Content-Length: 5"), 400),
        ((*HANDSHAKE, b"Transfer-Encoding: chunked"), 400),
    ],
)
def test_a_wrong_handshake_is_told_so_and_the_connection_ends(headers: tuple[bytes, ...], status: int) -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            wire.ask(b"/app", *headers)
            wire.writer.write(b"hello")  # is read as the body, or dropped
            head, body = await wire.answer()
            assert head.status == status
            assert b"WebSocket" in body
            assert site.replica.load == 0

    run(test())


def test_a_handshake_is_a_get() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE, method=b"PUT")
            head, _ = await wire.answer()
            assert head.status in {400, 405}

    run(test())


def test_a_path_that_is_no_applications() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            wire.ask(b"/other", *HANDSHAKE)
            head, body = await wire.answer()
            assert head.status == 404
            assert b"/-/routes" in body
            await site.connections_gone()

    run(test())


def test_an_ingress_that_is_not_an_asgi_application() -> None:
    async def test() -> None:
        async with serving(None) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            head, body = await wire.answer()
            assert (head.status, b"not an ASGI application" in body) == (400, True)
            await site.slots_free()

    run(test())


@pytest.mark.parametrize("together", [True, False])
def test_what_comes_before_the_answer_is_never_another_request(together: bool) -> None:
    """A request that hides behind an upgrade must not be served, whatever becomes of the upgrade."""

    async def test() -> None:
        asked, may_accept = asyncio.Event(), asyncio.Event()

        async def handler(websocket: WebSocket) -> None:
            asked.set()
            await may_accept.wait()
            await echo(websocket)

        hidden = b"GET /-/routes HTTP/1.1\r\nHost: h\r\n\r\n"
        async with serving(handler) as site, await site.connect() as wire:
            if together:
                request = b"\r\n".join((b"GET /app HTTP/1.1", b"Host: h", *HANDSHAKE)) + b"\r\n\r\n"
                wire.writer.write(request + hidden)
                await asked.wait()
                may_accept.set()
                assert (await wire.head()).status == 101
                wire.send(TEXT, b"one")
                assert await wire.next() == WireFrame(TEXT, b"one")
            else:
                wire.ask(b"/app", *HANDSHAKE)
                await asked.wait()
                wire.writer.write(hidden)
                head, _ = await wire.answer()
                assert head.status == 400
                await site.slots_free()

    run(test())


def test_after_an_upgrade_that_is_refused_nothing_is_served() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            wire.ask(b"/other", *HANDSHAKE)
            wire.ask(b"/-/routes")
            head, _ = await wire.answer()
            assert head.status == 404

    run(test())


def test_a_handshake_waits_for_the_answer_before_it() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            wire.ask(b"/-/routes")
            wire.ask(b"/app", *HANDSHAKE)
            head = await wire.head()
            assert head.status == 200
            await wire.reader.readexactly(int(head.headers["content-length"]))
            assert (await wire.head()).status == 101
            wire.send(TEXT, b"one")
            assert await wire.next() == WireFrame(TEXT, b"one")

    run(test())


# --- messages -------------------------------------------------------------------------------------------


def test_messages_both_ways() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            await wire.open(b"/app")
            for opcode, payload in ((TEXT, "grüß".encode()), (BINARY, bytes(range(256))), (TEXT, b""), (BINARY, b"")):
                wire.send(opcode, payload)
                assert await wire.next() == WireFrame(opcode, payload)

    run(test())


def test_a_message_in_fragments_with_control_frames_between() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            await wire.open(b"/app")
            umlaut = "ü".encode()
            wire.send(TEXT, b"", fin=False)
            wire.send(CONT, b"a" + umlaut[:1], fin=False)
            wire.send(PING, b"here?")
            for _ in range(1000):
                wire.send(CONT, b"", fin=False)
            wire.send(PONG, b"unasked")
            wire.send(CONT, umlaut[1:])
            assert await wire.next() == WireFrame(PONG, b"here?")
            assert await wire.next() == WireFrame(TEXT, b"a" + umlaut)

    run(test())


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 1024 * 1024])
def test_a_message_of_any_size_in_any_pieces(size: int) -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            await wire.open(b"/app")
            payload = bytes(range(251)) * (size // 251 + 1)
            data = frame(BINARY, payload[:size]) + frame(TEXT, b"after")
            for start in range(0, len(data), 77_777):
                wire.writer.write(data[start : start + 77_777])
                await wire.writer.drain()
            assert await wire.next() == WireFrame(BINARY, payload[:size])
            assert await wire.next() == WireFrame(TEXT, b"after")

    run(test())


def test_the_application_speaks_first_and_often() -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            for number in range(1000):
                await websocket.send_text(f"{number}")
            await websocket.close(3001, "that is all")

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            for number in range(1000):
                assert await wire.next() == WireFrame(TEXT, b"%d" % number)
            assert await wire.closed() == (3001, "that is all")
            await wire.ended()

    run(test())


# --- ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "heard"),
    [
        (close_payload(1000), (1000, "")),
        (close_payload(1001, "bye"), (1001, "bye")),
        (close_payload(4999, "ü" * 60), (4999, "ü" * 60)),
        (b"", (1005, "")),
    ],
)
def test_the_client_closes(payload: bytes, heard: tuple[int, str]) -> None:
    async def test() -> None:
        told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                await websocket.receive_text()
                await websocket.receive_text()
            except WebSocketDisconnect as end:
                told.put_nowait((end.code, end.reason))
                await websocket.close()  # as many applications do in a finally
                raise

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            wire.send(TEXT, b"last words")
            wire.send(CLOSE, payload)
            assert await wire.next() == WireFrame(CLOSE, payload)
            await wire.ended()
            assert await told.get() == heard
            await site.slots_free()
            await site.connections_gone()

    run(test())


@pytest.mark.parametrize("politely", [True, False])
def test_a_client_that_vanishes(politely: bool) -> None:
    """With a FIN or a reset, but without a close."""

    async def test() -> None:
        told: asyncio.Queue[int] = asyncio.Queue()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                await websocket.receive_text()
            except WebSocketDisconnect as end:
                with pytest.raises(WebSocketDisconnect):
                    await websocket.send_text("anyone?")
                told.put_nowait(end.code)

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            if politely:
                wire.writer.write_eof()
            else:
                wire.hang_up()
            assert await told.get() == 1006
            await site.slots_free()
            await site.connections_gone()

    run(test())


def test_an_application_that_outlives_its_client_is_cancelled() -> None:
    async def test() -> None:
        told: asyncio.Queue[float] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text("busy")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.put_nowait(loop.time())
                raise

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            await wire.next()
            left_at = loop.time()
            wire.hang_up()
            assert await told.get() - left_at >= asgi_websocket.GRACE_S * 0.9
            await site.slots_free()

    run(test())


def test_a_client_that_leaves_before_the_answer() -> None:
    async def test() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def handler(websocket: WebSocket) -> None:
            assert (await websocket.receive())["type"] == "websocket.connect"
            began.set()
            assert await websocket.receive() == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
            ended.set()

        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            await began.wait()
            wire.hang_up()
            await ended.wait()
            await site.slots_free()
            await site.connections_gone()

    run(test())


def test_returning_closes() -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            assert await wire.closed() == (1000, "")
            await wire.ended()
            await site.connections_gone()

    run(test())
