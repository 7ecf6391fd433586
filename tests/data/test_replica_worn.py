"""A replica that asks to be replaced: requests that will not be cancelled, ``max_requests``, ``max_rss``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import anyio.to_thread
import pytest

from salver.data.replica import wear
from salver.data.replica.replica import CONTROLLER
from salver.wire.frames import Kind
from salver.wire.messages import CallMeta, Drain, Worn, decode_report, encode
from salver.wire.payload import dump_value

from .scene import Gated, RunningReplica, Scene, run

LINE_OF_HOLD = "scene.py:"


async def report(replica: RunningReplica) -> str:
    frame = await replica.control.next(Kind.REPORT)
    message = decode_report(frame.meta)
    assert isinstance(message, Worn)
    return message.reason


async def no_report(replica: RunningReplica) -> None:
    """Everything that it has said so far has been looked at."""
    await replica.control.nothing_more()


# --- requests that ignore their cancellation --------------------------------------------------------------


class Stubborn(Gated):
    async def work(self, label: object = None) -> object:
        while True:
            try:
                return await self.gate.hold("work")
            except asyncio.CancelledError:
                continue

    async def items(self) -> AsyncGenerator[int]:
        yield 1
        await self.work()

    async def deeper(self) -> object:
        return await self.work()

    async def with_a_thread(self) -> object:
        """As frameworks call ``def`` handlers."""
        return await anyio.to_thread.run_sync(self.in_thread)

    def in_thread(self) -> object:
        loop = self.gate.loop  # type: ignore[attr-defined]
        return asyncio.run_coroutine_threadsafe(self.gate.hold("thread"), loop).result(timeout=20)


@pytest.mark.parametrize(
    ("method", "outermost"), [("work", "Stubborn.work"), ("deeper", "Stubborn.deeper"), ("items", "Stubborn.items")]
)
def test_a_request_that_ignores_its_cancellation_is_reported_with_its_place(method: str, outermost: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Stubborn, name, cancel_grace_s=0.05)
            peer = await scene.peer(replica)
            meta = CallMeta(method, "id", stream=method == "items")
            peer.send(Kind.CALL, 1, encode(meta), bytes(dump_value(((), {}))))
            await gate.entered.get()
            peer.send(Kind.CANCEL, 1)
            reason = await report(replica)
            assert reason.startswith(f"a request of d has ignored its cancellation for 0.05 s: {outermost} at ")
            assert LINE_OF_HOLD in reason, "where it waits"
            assert replica.load == 1
            gate.open()

    run(test())


def test_a_request_that_ends_in_time_is_not_reported() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2, cancel_grace_s=0.05)
            peer = await scene.peer(replica)
            loop = asyncio.get_running_loop()
            for stream in (1, 2):
                peer.call(stream)
                await gate.entered.get()
            peer.send(Kind.CANCEL, 1)
            await peer.nothing_more()
            grace_is_over = loop.create_future()
            loop.call_later(0.2, grace_is_over.set_result, None)
            await grace_is_over
            await no_report(replica)
            gate.open()

    run(test())


def test_threads_cannot_be_cancelled_and_are_not_counted() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            gate.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]
            replica = await scene.replica(Stubborn, name, capacity=3, cancel_grace_s=0.05)
            peer = await scene.peer(replica)
            peer.call(1, "with_a_thread")
            peer.call(2, "in_thread")
            assert {await gate.entered.get(), await gate.entered.get()} == {"thread"}
            peer.send(Kind.CANCEL, 1)
            peer.send(Kind.CANCEL, 2)
            peer.call(3)
            await gate.entered.get()
            peer.send(Kind.CANCEL, 3)  # whose time is up after that of the others
            assert "Stubborn.work" in await report(replica)
            gate.open(3)

    run(test())


def test_a_draining_replica_reports_nothing() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Stubborn, name, cancel_grace_s=0.05)
            peer = await scene.peer(replica)
            peer.call(1)
            await gate.entered.get()
            replica.control.send(Kind.CONTROL, 2, b"", encode(Drain()))
            await replica.control.next(Kind.RESPONSE, 2)
            await replica.control.next(Kind.GOAWAY)
            peer.send(Kind.CANCEL, 1)
            await gate.entered.get()
            loop = asyncio.get_running_loop()
            grace_is_over = loop.create_future()
            loop.call_later(0.2, grace_is_over.set_result, None)
            await grace_is_over
            await no_report(replica)
            gate.open()

    run(test())


# --- enough served ----------------------------------------------------------------------------------------


def test_a_replica_that_has_served_enough_says_so_once_and_serves_on() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0], max_requests=20)
            peer = await scene.peer(replica)
            served = 0
            while replica.control.frames.empty():
                served += 1
                peer.call(served, "echo", served)
                assert await peer.answer(served) == served
                assert served < 30
            assert 18 <= served <= 23, "it says so while the last one is on its way"
            reason = await report(replica)
            assert reason.startswith("requests served: ")
            assert reason.endswith(" (max_requests)")
            for stream in range(100, 150):
                peer.call(stream, "echo", stream)
                await peer.answer(stream)
            await no_report(replica)

    run(test())


def test_every_replica_takes_its_own_number() -> None:
    limits: set[int | None] = set()
    for _ in range(50):
        each = wear.Wear(lambda _: None, lambda: 0)
        each.limit(1000, None)
        limits.add(each.served_at_most)
    assert len(limits) > 10
    assert all(limit is not None and 900 <= limit <= 1100 for limit in limits)


def test_the_limit_follows_and_can_be_taken_away() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0], max_requests=1)
            peer = await scene.peer(replica)
            await replica.reconfigured(2)
            for stream in range(1, 5):
                peer.call(stream, "echo", stream)
                await peer.answer(stream)
            await no_report(replica)
            await replica.reconfigured(3, max_requests=1)
            peer.call(9, "echo", 9)
            await peer.answer(9)
            assert "max_requests" in await report(replica)

    run(test())


def test_a_controller_that_comes_later_is_told_and_callers_never_are() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0], max_requests=1)
            replica.control.hang_up()
            await replica.control.lost.wait()
            peer = await scene.peer(replica)
            peer.call(1, "echo", 1)
            await peer.answer(1)
            successor = await scene.peer(replica, CONTROLLER)
            assert decode_report((await successor.next(Kind.REPORT)).meta) == Worn(
                "requests served: 1 (max_requests)"
            )
            other = await scene.peer(replica, "another caller")
            await other.nothing_more()
            await peer.nothing_more()

    run(test())


# --- too much memory --------------------------------------------------------------------------------------


def test_memory_above_the_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear, "_MEASURE_EVERY_S", 0.01)

    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0], max_rss_bytes=100 * 2**20)
            scene.board.rss[replica.slot] = 99 * 2**20
            timer_has_run = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.2, timer_has_run.set_result, None)
            await timer_has_run
            await no_report(replica)
            scene.board.rss[replica.slot] = 612 * 2**20
            assert await report(replica) == "its memory of 612 MiB is more than the 100 MiB of max_rss"
            await replica.reconfigured(2, max_rss_bytes=2**20)
            await no_report(replica)

    run(test())


def test_without_a_limit_nothing_is_measured_and_a_limit_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wear, "_MEASURE_EVERY_S", 0.01)

    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0])
            assert replica.replica._wear._timer is None
            scene.board.rss[replica.slot] = 2**30
            await replica.reconfigured(2, max_rss_bytes=2**29)
            assert "512 MiB of max_rss" in await report(replica)
            assert replica.replica._wear._timer is None

    run(test())
