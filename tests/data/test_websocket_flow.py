"""WebSockets whose ends do not keep pace: whoever is slow stops the other one, and nothing piles up between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from starlette.websockets import WebSocket, WebSocketDisconnect

from salver.data.http.limits import HTTPLimits
from salver.data.replica.asgi_websocket import WebSocketSession
from salver.wire.messages import BODY_WINDOW_BYTES, MESSAGE_OVERHEAD_BYTES

from .scene import run
from .websocket_scene import BINARY, CLOSE, PING, TEXT, Site, Wire, echo, frame, serving

PIECE = bytes(64 * 1024)
PIECES = 1000
"""64 MiB in all: far more than the sockets between hold."""


async def slow_client(site: Site) -> Wire:
    """A client whose kernel, too, takes little."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", site.port))
    return Wire(*await asyncio.open_connection(sock=plain, limit=64 * 1024))


async def settled(progress: Callable[[], int]) -> int:
    """Where it stops."""
    before, same = -1, 0
    while same < 20:
        await asyncio.sleep(0.02)
        same = same + 1 if progress() == before and before else 0
        before = progress()
    return before


def test_a_slow_client_stops_the_application() -> None:
    async def test() -> None:
        sent: list[int] = []

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            for number in range(PIECES):
                await websocket.send_bytes(PIECE)
                sent.append(number)
            await websocket.close()

        async with serving(handler) as site, await slow_client(site) as wire:
            await wire.open(b"/app")
            assert await settled(lambda: len(sent)) < PIECES // 4
            for _ in range(PIECES):
                received = await wire.next()
                assert (received.opcode, len(received.payload)) == (BINARY, len(PIECE))
            assert await wire.closed() == (1000, "")

    run(test())


def test_a_slow_application_stops_the_client() -> None:
    async def test() -> None:
        may_read = asyncio.Event()
        received: list[int] = []

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            await may_read.wait()
            while True:
                received.append(len(await websocket.receive_bytes()))

        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            written: list[int] = []

            async def write() -> None:
                for number in range(PIECES):
                    wire.send(BINARY, PIECE)
                    await wire.writer.drain()
                    written.append(number)

            writing = asyncio.create_task(write())
            assert await settled(lambda: len(written)) < PIECES // 4
            assert held_by_replica(site) <= BODY_WINDOW_BYTES // len(PIECE) + 1
            may_read.set()
            await writing
            wire.send(CLOSE)
            assert (await wire.next()).opcode == CLOSE
            await site.slots_free()
            assert received == [len(PIECE)] * PIECES

    run(test())


def held_by_replica(site: Site) -> int:
    """Messages that the application has not received."""
    (invocation,) = site.replica.replica._running.values()
    return len(cast(WebSocketSession, invocation.exchange)._inbox)


def test_empty_messages_are_not_free() -> None:
    async def test() -> None:
        may_read = asyncio.Event()
        received = 0

        async def handler(websocket: WebSocket) -> None:
            nonlocal received
            await websocket.accept()
            await may_read.wait()
            while True:
                await websocket.receive_text()
                received += 1

        many = 50_000
        async with serving(handler) as site, await site.connect() as wire:
            await wire.open(b"/app")
            wire.writer.write(frame(TEXT) * many)
            assert await settled(lambda: held_by_replica(site)) <= BODY_WINDOW_BYTES // MESSAGE_OVERHEAD_BYTES + 1
            may_read.set()
            wire.send(CLOSE)
            assert (await wire.next()).opcode == CLOSE
            await site.slots_free()
            assert received == many

    run(test())


def test_a_flood_of_tiny_frames_does_not_hold_up_others() -> None:
    """Each turn of the loop takes a share of them."""

    async def test() -> None:
        async with serving(echo) as site, await site.connect() as flood, await site.connect() as other:
            await flood.open(b"/app")
            await other.open(b"/app")
            flood.writer.write(frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 100_000)
            for _ in range(20):
                other.send(TEXT, b"quick")
                assert (await other.next()).payload == b"quick"
            connections = cast("set[Any]", site.proxy._connections)
            assert max(len(each._unparsed) for each in connections) < 1024 * 1024

    run(test())


def test_pings_whose_answers_are_not_read() -> None:
    async def test() -> None:
        sent: list[int] = []
        told: asyncio.Queue[int] = asyncio.Queue()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                while True:
                    await websocket.send_bytes(PIECE)
                    sent.append(1)
            except WebSocketDisconnect as end:
                told.put_nowait(end.code)

        async with serving(handler) as site, await slow_client(site) as wire:
            await wire.open(b"/app")
            await settled(lambda: len(sent))
            wire.writer.write(frame(PING, b"x" * 125) * 200)
            assert await told.get() == 1006
            while (received := await wire.next()).opcode != CLOSE:
                pass
            assert int.from_bytes(received.payload[:2], "big") == 1008
            await site.slots_free()

    run(test())


def test_a_client_that_never_reads_is_gone_in_the_end() -> None:
    """Its pings cannot be answered, and it takes nothing of what was written."""

    async def test() -> None:
        told: asyncio.Queue[int] = asyncio.Queue()

        async def handler(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                while True:
                    await websocket.send_bytes(PIECE)
            except WebSocketDisconnect as end:
                told.put_nowait(end.code)

        limits = HTTPLimits(websocket_ping_s=0.5, websocket_pong_s=0.5)
        async with serving(handler, limits=limits) as site, await slow_client(site) as wire:
            await wire.open(b"/app")
            assert await told.get() == 1006
            await site.slots_free()
            await site.connections_gone()

    run(test())
