"""Calls that stream, frame by frame: what a replica sends, when it stops, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from data.scene import Peer, Scene, run, turns
from salver.data.context import request_context
from salver.wire.frames import END, Kind
from salver.wire.messages import STREAM_WINDOW_BYTES, CallMeta, ErrorKind, decode_error, encode, encode_credit
from salver.wire.payload import dump_value, load_value

ITEM = b"x" * 10_000
ITEM_BYTES = len(dump_value(ITEM))
IN_A_WINDOW = -(-STREAM_WINDOW_BYTES // ITEM_BYTES)

LEFT: list[str] = []
PARKED = threading.Event()


class Source:
    """Generators of both kinds."""

    def some(self, count: int) -> Iterator[int]:
        yield from range(count)

    async def some_async(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    def endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield ITEM
        finally:
            LEFT.append("endless")
            PARKED.set()

    async def endless_async(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield ITEM
        finally:
            LEFT.append("endless_async")
            PARKED.set()

    def fails(self) -> Iterator[int]:
        yield 1
        raise KeyError("two")

    async def fails_async(self) -> AsyncIterator[int]:
        yield 1
        raise KeyError("two")

    def remaining(self) -> Iterator[Any]:
        yield request_context.get().deadline is not None

    async def none(self) -> int:
        return 1


BOTH = pytest.mark.parametrize("kind", ["", "_async"])


def call(peer: Peer, stream: int, method: str, *args: object, remaining_s: float = 0.0) -> None:
    meta = CallMeta(method, f"request-{stream}", remaining_s=remaining_s, stream=True)
    peer.send(Kind.CALL, stream, encode(meta), bytes(dump_value((args, {}))))


async def item(peer: Peer, stream: int) -> Any:
    frame = await peer.next(Kind.DATA, stream)
    assert not frame.flags & END
    return load_value(frame.payload)


async def end(peer: Peer, stream: int) -> None:
    frame = await peer.next(Kind.DATA, stream)
    assert frame.flags & END
    assert not frame.payload


@BOTH
def test_head_then_items_then_the_end(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Source)
            peer = await scene.peer(replica)
            call(peer, 1, f"some{kind}", 3)
            await peer.next(Kind.HEAD, 1)
            assert [await item(peer, 1) for _ in range(3)] == [0, 1, 2]
            await end(peer, 1)
            call(peer, 2, f"some{kind}", 0)
            await peer.next(Kind.HEAD, 2)
            await end(peer, 2)
            await peer.nothing_more()
            assert replica.load == 0

    run(test())


@BOTH
def test_no_more_than_a_window_without_credit(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            peer = await scene.peer(await scene.replica(Source))
            call(peer, 1, f"endless{kind}")
            await peer.next(Kind.HEAD, 1)
            for _ in range(IN_A_WINDOW):
                await item(peer, 1)
            await peer.nothing_more()
            peer.send(Kind.CREDIT, 1, encode_credit(ITEM_BYTES))  # it had overshot its window by less than an item
            await item(peer, 1)
            await peer.nothing_more()

    run(test())


@BOTH
def test_cancelled_while_it_waits_for_credit_the_generator_is_closed(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            LEFT.clear()
            PARKED.clear()
            replica = await scene.replica(Source)
            peer = await scene.peer(replica)
            call(peer, 1, f"endless{kind}")
            await peer.next(Kind.HEAD, 1)
            for _ in range(IN_A_WINDOW):
                await item(peer, 1)
            peer.send(Kind.CANCEL, 1)
            assert await asyncio.to_thread(PARKED.wait, 20)
            assert [f"endless{kind}"] == LEFT
            await peer.nothing_more()
            assert replica.load == 0

    run(test())


@BOTH
def test_a_caller_that_hangs_up_closes_the_generator(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            PARKED.clear()
            replica = await scene.replica(Source)
            peer = await scene.peer(replica)
            call(peer, 1, f"endless{kind}")
            await peer.next(Kind.HEAD, 1)
            await item(peer, 1)  # it has begun: one that has not needs no closing
            peer.hang_up()
            assert await asyncio.to_thread(PARKED.wait, 20)
            await turns()

    run(test())


@BOTH
def test_an_error_comes_after_the_items_before_it(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            peer = await scene.peer(await scene.replica(Source))
            call(peer, 1, f"fails{kind}")
            await peer.next(Kind.HEAD, 1)
            assert await item(peer, 1) == 1
            meta = decode_error((await peer.next(Kind.ERROR, 1)).meta)
            assert (meta.kind, meta.type_name) == (ErrorKind.USER, "KeyError")
            await peer.nothing_more()

    run(test())


def test_what_is_no_generator_has_no_head() -> None:
    async def test() -> None:
        async with Scene() as scene:
            peer = await scene.peer(await scene.replica(Source))
            call(peer, 1, "none")
            meta = decode_error((await peer.next(Kind.ERROR, 1)).meta)
            assert meta.kind == ErrorKind.GENERATOR
            assert "did not return a generator" in meta.message

    run(test())


def test_a_generator_in_a_thread_knows_its_deadline() -> None:
    async def test() -> None:
        async with Scene() as scene:
            peer = await scene.peer(await scene.replica(Source))
            for stream, remaining_s in ((1, 0.0), (2, 60.0)):
                call(peer, stream, "remaining", remaining_s=remaining_s)
                await peer.next(Kind.HEAD, stream)
                assert await item(peer, stream) is bool(remaining_s)
                await end(peer, stream)

    run(test())
