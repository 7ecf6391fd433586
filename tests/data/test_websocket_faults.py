"""WebSockets that somebody breaks: the client, the application, the replica, the proxy; and what the others hear."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from salver.data.http.limits import HTTPLimits
from salver.errors import BackPressureError

from .scene import run
from .websocket_scene import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    Site,
    Wire,
    WireFrame,
    close_payload,
    echo,
    frame,
    serving,
)

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"


class Told:
    """What the application heard of the end."""

    def __init__(self) -> None:
        self.codes: asyncio.Queue[int] = asyncio.Queue()
        self.messages = 0

    async def __call__(self, websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                self.codes.put_nowait(message["code"])
                return
            self.messages += 1


# --- the client breaks the protocol ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(TEXT, b"x", rsv=1), 1002),
        (frame(3, b"x"), 1002),
        (frame(11, b"x"), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(CLOSE, close_payload(999)), 1002),
        (frame(CLOSE, close_payload(1006)), 1002),
        (frame(CLOSE, close_payload(1000) + b"\xff"), 1007),
        (frame(TEXT, b"caf\xe9"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"\x28"), 1007),
        (frame(TEXT, "\ud800".encode(errors="surrogatepass")), 1007),
        (frame(BINARY, b"x" * 1001), 1009),
        (frame(BINARY, b"x" * 600, fin=False) + frame(CONT, b"x" * 401), 1009),
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
    ],
)
def test_a_violation_is_closed_with_the_code_for_it(data: bytes, code: int) -> None:
    async def test() -> None:
        told = Told()
        async with serving(told, limits=HTTPLimits(websocket_message=1000)) as site, await site.connect() as wire:
            await wire.open(b"/app")
            wire.writer.write(data + frame(TEXT, b"and more"))
            assert (await wire.closed())[0] == code
            await wire.ended()
            assert await told.codes.get() == 1006
            assert told.messages == 0
            await site.slots_free()
        await site.connections_gone()

    run(test())


def compressed(payload: bytes) -> bytes:
    deflate = zlib.compressobj(9, wbits=-12)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_compressed_messages() -> None:
    async def test() -> None:
        async with serving(echo) as site, await site.connect() as wire:
            head = await wire.open(b"/app", DEFLATE)
            assert head.headers["sec-websocket-extensions"].startswith("permessage-deflate")
            text = b"again and " * 1000
            wire.send(TEXT, compressed(text), rsv=4)
            answer = await wire.next()
            assert answer.compressed
            assert len(answer.payload) < 200
            assert zlib.decompressobj(wbits=-12).decompress(answer.payload + b"\0\0\xff\xff") == text
            large = b"x" * 200_000
            wire.send(TEXT, large)
            assert await wire.next() == WireFrame(TEXT, large), "compressing it would hold up everybody else"

    run(test())


def test_a_message_that_is_small_only_while_it_is_compressed() -> None:
    async def test() -> None:
        told = Told()
        async with serving(told) as site, await site.connect() as wire:
            await wire.open(b"/app", DEFLATE)
            wire.send(BINARY, compressed(bytes(16 * 1024 * 1024 + 1)), rsv=4)
            assert (await wire.closed())[0] == 1009
            assert await told.codes.get() == 1006
            assert told.messages == 0

    run(test())


# --- the application ------------------------------------------------------------------------------------


def test_an_application_that_raises() -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.receive_text()
            raise SystemExit("secret")

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            wire.send(TEXT, b"go")
            assert await wire.closed() == (1011, "")
            await wire.ended()
            await site.slots_free()

    run(test())


async def raises(websocket: WebSocket) -> None:
    raise ValueError("secret")


async def returns(websocket: WebSocket) -> None: ...


async def sends_too_early(websocket: WebSocket) -> None:
    await websocket._send({"type": "websocket.send", "text": "x"})


async def forges_the_protocol(websocket: WebSocket) -> None:
    await websocket.accept(headers=[(b"Sec-WebSocket-Accept", b"x")])


async def splits_the_response(websocket: WebSocket) -> None:
    await websocket.accept("a\r\nx: y")


@pytest.mark.parametrize("handler", [raises, returns, sends_too_early, forges_the_protocol, splits_the_response])
def test_an_application_that_fails_before_it_accepts(handler: Any) -> None:
    async def test() -> None:
        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            head, body = await wire.answer()
            assert (head.status, body) == (500, b"Internal Server Error")
            await site.slots_free()
            await site.connections_gone()

    run(test())


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.close", "code": 1005},
        {"type": "websocket.close", "code": 999},
        {"type": "websocket.close", "reason": "x" * 124},
        {"type": "websocket.http.response.start", "status": 200},
        {"type": "http.response.start", "status": 200},
    ],
)
def test_an_application_that_breaks_asgi(message: dict[str, Any]) -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket._send(message)

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            assert await wire.closed() == (1011, "")

    run(test())


def test_closing_before_accepting_refuses() -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.close(4000)

        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE, b"X-Request-ID: mine")
            head, _ = await wire.answer()
            assert (head.status, head.headers["x-request-id"]) == (403, "mine")

    run(test())


@pytest.mark.parametrize("size", [10, 3 * 1024 * 1024])
def test_a_refusal_in_the_application_s_words(size: int) -> None:
    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            await websocket.send_denial_response(PlainTextResponse("n" * size, 401, {"x-why": "token"}))

        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            head, body = await wire.answer()
            assert (head.status, head.headers["x-why"], body) == (401, "token", b"n" * size)
            await site.slots_free()

    run(test())


@pytest.mark.parametrize("accepted", [True, False])
def test_an_application_that_meets_a_full_queue(accepted: bool) -> None:
    """Before it accepts too: a browser's page cannot see the status of a handshake that failed."""

    async def test() -> None:
        async def handler(websocket: WebSocket) -> None:
            if accepted:
                await websocket.accept()
            raise BackPressureError(3, 3)

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            code, reason = await wire.closed()
            assert (code, "backpressure" in reason) == (1013, True)

    run(test())


# --- replicas and proxies that go -----------------------------------------------------------------------


async def opened(site: Site) -> Wire:
    wire = await site.connect()
    await wire.open(b"/app")
    wire.send(TEXT, b"here?")
    assert await wire.next() == WireFrame(TEXT, b"here?")
    return wire


def test_a_replica_that_dies() -> None:
    async def test() -> None:
        async with serving(echo) as site, await opened(site) as wire:
            await site.replica.die()
            code, reason = await wire.closed()
            assert (code, "died" in reason) == (1011, True)
            await wire.ended()

    run(test())


def test_a_replica_that_dies_before_it_answers() -> None:
    async def test() -> None:
        began = asyncio.Event()

        async def handler(websocket: WebSocket) -> None:
            began.set()
            await asyncio.Event().wait()

        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            await began.wait()
            for channel in list(site.replica.replica._channels):
                channel.abort()
            head, _ = await wire.answer()
            assert head.status == 502

    run(test())


@pytest.mark.parametrize(("told_to_leave", "code"), [(True, 1012), (False, 1011)])
def test_a_replica_that_is_replaced_keeps_its_websockets_until_its_time_is_up(told_to_leave: bool, code: int) -> None:
    """One that just dies may be out of the routing table before its connection breaks: that is not a restart."""

    async def test() -> None:
        async with serving(echo) as site, await opened(site) as wire:
            if told_to_leave:
                site.replica.drain()
            while site.replica.replica._draining != told_to_leave:
                await asyncio.sleep(0.01)
            site.publish([], capacity=10)
            (router,) = site.proxy._caller._routers.values()
            while router.has_replicas:
                await asyncio.sleep(0.01)
            wire.send(TEXT, b"still here?")
            assert await wire.next() == WireFrame(TEXT, b"still here?")
            for channel in list(site.replica.replica._channels):
                channel.abort()  # killed
            assert (await wire.closed())[0] == code

    run(test())


def test_a_proxy_that_is_stopped() -> None:
    async def test() -> None:
        told = Told()
        async with serving(told) as site, await site.connect() as wire:
            await wire.open(b"/app")
            draining = asyncio.create_task(site.proxy.drain())
            assert (await wire.closed())[0] == 1012
            assert await told.codes.get() == 1012
            await wire.ended()
            wire.writer.close()
            await draining

    run(test())


def test_a_proxy_that_is_stopped_while_a_handshake_waits() -> None:
    async def test() -> None:
        began, may_accept = asyncio.Event(), asyncio.Event()

        async def handler(websocket: WebSocket) -> None:
            began.set()
            await may_accept.wait()
            await websocket.accept()
            with pytest.raises(WebSocketDisconnect):
                await websocket.receive_text()

        async with serving(handler) as site, await site.connect() as wire:
            wire.ask(b"/app", *HANDSHAKE)
            await began.wait()
            draining = asyncio.create_task(site.proxy.drain())
            may_accept.set()
            assert (await wire.head()).status == 101
            assert (await wire.closed())[0] == 1012
            wire.writer.close()
            await draining

    run(test())


def test_a_client_that_ignores_the_close_does_not_hold_up_the_proxy() -> None:
    async def test() -> None:
        async with serving(echo) as site, await opened(site):
            await site.proxy.drain()

    run(test())


# --- no room --------------------------------------------------------------------------------------------


def test_an_overloaded_application() -> None:
    async def test() -> None:
        async with (
            serving(echo, capacity=1, max_queued=0) as site,
            await opened(site),
            await site.connect() as second,
        ):
            await second.open(b"/app")
            code, reason = await second.closed()
            assert (code, "backpressure" in reason) == (1013, True)
            await second.ended()

    run(test())


def test_an_application_that_is_unavailable() -> None:
    async def test() -> None:
        async with serving(echo) as site:
            site.publish([], capacity=1, unavailable="secret")
            (router,) = site.proxy._caller._routers.values()
            while router.has_replicas:
                await asyncio.sleep(0.01)
            async with await site.connect() as wire:
                await wire.open(b"/app")
                assert await wire.closed() == (1013, "The application is unavailable.")

    run(test())


def test_a_websocket_holds_a_slot_until_it_ends() -> None:
    async def test() -> None:
        async with serving(echo, capacity=1) as site, await site.connect() as second:
            async with await opened(site) as first:
                second.ask(b"/app", *HANDSHAKE)
                first.send(CLOSE, close_payload(1000))
                await first.next()
            assert (await second.head()).status == 101

    run(test())


# --- silence --------------------------------------------------------------------------------------------


def test_a_client_that_does_not_answer_pings_is_gone() -> None:
    async def test() -> None:
        told = Told()
        limits = HTTPLimits(websocket_ping_s=0.5, websocket_pong_s=0.5)
        async with serving(told, limits=limits) as site, await site.connect() as wire:
            await wire.open(b"/app")
            assert (await wire.next()).opcode == PING
            assert (await wire.closed())[0] == 1001
            assert await told.codes.get() == 1006

    run(test())


@pytest.mark.parametrize("sign", [frame(PONG), frame(TEXT, b"busy"), b"\x82"])
def test_any_sign_of_life_keeps_a_websocket_open(sign: bytes) -> None:
    """A part of a frame as well: no pong can come within a message that takes its time."""

    async def test() -> None:
        told = Told()
        limits = HTTPLimits(websocket_ping_s=0.5, websocket_pong_s=0.5)
        async with serving(told, limits=limits) as site, await site.connect() as wire:
            await wire.open(b"/app")
            pieces = [b"\x82", b"\x83", b"\0\0\0\0", b"abc"] if sign == b"\x82" else [sign] * 4
            for piece in pieces:
                assert (await wire.next()).opcode == PING
                wire.writer.write(piece)
            assert told.codes.empty()

    run(test())
