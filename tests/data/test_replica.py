"""The replica's side of the protocol, frame by frame: slots, reservations, cancelling, leaving."""

from __future__ import annotations

import asyncio

import pytest

from salver.data.channel import Channel
from salver.data.replica import slots as slots_module
from salver.wire.frames import Buffer, FrameDecoder, Kind

from .scene import Peer, RunningReplica, Scene, run


async def peers(scene: Scene, replica: RunningReplica, count: int) -> list[Peer]:
    return [await scene.peer(replica, f"caller {number}") for number in range(count)]


# --- slots ----------------------------------------------------------------------------------------------


def test_slots_are_all_used_and_never_exceeded() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=3)
            [peer] = await peers(scene, replica, 1)
            for stream in range(1, 6):
                peer.call(stream, "work", stream)
            for stream in (4, 5):
                await peer.next(Kind.BUSY, stream)
            assert (gate.running, replica.load) == (3, 3)
            gate.open(3)
            assert {(await peer.frames.get()).kind for _ in range(4)} == {Kind.RESPONSE, Kind.READY}

    run(test())


def test_an_answer_leaves_with_the_slot_that_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it sees a free slot on the board, and who waits in line has its READY: no queue looks full."""
    written: list[tuple[list[Kind], int]] = []
    write = Channel._transport_write

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            peer = await scene.peer(replica)

            def recorded(channel: Channel, data: Buffer) -> None:
                if channel.sender == "caller":
                    frames = FrameDecoder().feed(bytes(data))
                    written.append(([Kind(frame.kind) for frame in frames], replica.load))
                write(channel, data)

            monkeypatch.setattr(Channel, "_transport_write", recorded)
            peer.call(1, "echo", "at once")
            assert await peer.answer(1) == "at once"
            assert written.pop() == ([Kind.RESPONSE], 0)

            peer.call(1, "work", "slow")
            await gate.entered.get()
            peer.call(2, "echo", "waits")
            await peer.next(Kind.BUSY, 2)
            gate.open()
            assert await peer.answer(1) == "slow"
            await peer.next(Kind.READY)
            assert written[-1] == ([Kind.RESPONSE, Kind.READY], 0)

    run(test())


def test_busy_then_ready_and_nothing_in_between() -> None:
    """The whole conversation of a caller that has to wait: no polling, no repeated offers."""

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            first, second, third = await peers(scene, replica, 3)
            first.call(1, "work", "first")
            await gate.entered.get()
            second.call(1, "work", "second")
            busy = await second.next(Kind.BUSY, 1)
            assert busy.load == 1
            third.send(Kind.WAIT)
            await second.nothing_more()
            await third.nothing_more()
            gate.open()
            assert await first.answer(1) == "first"
            await second.next(Kind.READY)
            await third.nothing_more()
            second.call(2, "work", "second")
            await gate.entered.get()
            await third.nothing_more()
            gate.open()
            assert await second.answer(2) == "second"
            await third.next(Kind.READY)
            for peer in (first, second, third):
                await peer.nothing_more()

    run(test())


def test_callers_get_slots_in_the_order_in_which_they_asked() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder, *waiting = await peers(scene, replica, 5)
            holder.call(1, "work", "holder")
            await gate.entered.get()
            for number in (2, 0, 3, 1):
                waiting[number].send(Kind.WAIT)
                await waiting[number].nothing_more()
            gate.open()
            for number in (2, 0, 3, 1):
                await waiting[number].next(Kind.READY)
                waiting[number].call(1, "work", number)
                assert await gate.entered.get() in {"holder", number}
                gate.open()
                assert await waiting[number].answer(1) == number

    run(test())


def test_a_caller_that_waits_twice_is_in_line_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            holder, eager, other = await peers(scene, replica, 3)
            holder.call(1)
            holder.call(2)
            await gate.entered.get()
            await gate.entered.get()
            for _ in range(3):
                eager.send(Kind.WAIT)
            eager.call(1)
            await eager.next(Kind.BUSY, 1)
            other.send(Kind.WAIT)
            await other.nothing_more()
            gate.open(2)
            await eager.next(Kind.READY)
            await other.next(Kind.READY)
            await eager.nothing_more()

    run(test())


def test_wait_at_a_free_replica_is_answered_at_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.send(Kind.WAIT)
            await peer.next(Kind.READY)
            peer.call(1, "work", "x")
            gate.open()
            assert await peer.answer(1) == "x"

    run(test())


def test_a_reserved_slot_is_kept_from_others() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            reserved, other = await peers(scene, replica, 2)
            reserved.send(Kind.WAIT)
            await reserved.next(Kind.READY)
            other.call(1, "echo", 1)
            await other.next(Kind.BUSY, 1)
            reserved.call(1, "echo", 2)
            assert await reserved.answer(1) == 2
            await other.next(Kind.READY)

    run(test())


@pytest.mark.parametrize("how", ["decline", "hang up", "expire"])
def test_an_unused_reservation_goes_to_the_next(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_RESERVED_FOR_S", 0.02 if how == "expire" else 1000.0)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder, first, second = await peers(scene, replica, 3)
            holder.call(1)
            await gate.entered.get()
            first.send(Kind.WAIT)
            await first.nothing_more()
            second.send(Kind.WAIT)
            await second.nothing_more()
            gate.open()
            await first.next(Kind.READY)
            if how == "decline":
                first.send(Kind.DECLINE)
            elif how == "hang up":
                first.hang_up()
            await second.next(Kind.READY)
            if how == "expire":  # too late: it is treated like anybody without a reservation
                gate.open()
                second.call(1, "work", "second")
                assert await gate.entered.get() == "second"
                assert await second.answer(1) == "second"

    run(test())


def test_a_caller_that_dies_in_line_or_at_work_blocks_nobody() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            working, waiting, survivor = await peers(scene, replica, 3)
            working.call(1, "work", "doomed")
            await gate.entered.get()
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()
            survivor.send(Kind.WAIT)
            await survivor.nothing_more()
            waiting.hang_up()
            working.hang_up()
            await survivor.next(Kind.READY)
            assert gate.left == ["doomed"], "its task was cancelled"
            assert replica.load == 0

    run(test())


# --- cancelling -----------------------------------------------------------------------------------------


def test_cancel_frees_the_slot_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            await gate.entered.get()
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            peer.send(Kind.CANCEL, 1)
            await peer.next(Kind.READY)
            assert (gate.running, replica.load) == (0, 0)
            await peer.nothing_more()

    run(test())
    assert caplog.records == [], "a cancelled call is no failure"


def test_a_call_cancelled_before_it_began_frees_its_slot() -> None:
    """Both frames come in one read: the task is cancelled before its first step.

    What a caller sends after a frame that came alone leaves alone; DECLINE, which says nothing here, is that one.
    """

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            for stream in range(1, 4):
                peer.send(Kind.DECLINE)
                peer.call(stream)
                peer.send(Kind.CANCEL, stream)
                await peer.nothing_more()
                assert replica.load == 0
            peer.send(Kind.DECLINE)
            peer.request(9)
            peer.send(Kind.CANCEL, 9)
            await peer.nothing_more()
            peer.call(10, "work", "last")
            gate.open(10)
            assert await peer.answer(10) == "last"

    run(test())


def test_unknown_streams_are_ignored() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            for kind in (Kind.CANCEL, Kind.BODY, Kind.CREDIT, Kind.DECLINE, Kind.RESPONSE, Kind.SNAPSHOT):
                peer.send(kind, 77)
            peer.call(1, "echo", "fine")
            assert await peer.answer(1) == "fine"

    run(test())


class Stubborn:
    """Does not end when it is cancelled."""

    def __init__(self, gate: str) -> None:
        from .scene import GATES

        self.gate = GATES[gate]

    async def work(self) -> None:
        try:
            await self.gate.hold("first")
        except asyncio.CancelledError:
            await self.gate.hold("clean-up")


def test_a_slot_is_taken_until_user_code_has_really_ended() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Stubborn, name)
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            assert await gate.entered.get() == "first"
            peer.send(Kind.CANCEL, 1)
            assert await gate.entered.get() == "clean-up"
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            assert replica.load == 1
            gate.open()
            while (await peer.frames.get()).kind != Kind.READY:
                pass  # it swallowed the cancellation and answers: callers know the stream no more
            assert replica.load == 0

    run(test())


# --- leaving --------------------------------------------------------------------------------------------


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            working, idle = await peers(scene, replica, 2)
            working.call(1, "work", "finished")
            await gate.entered.get()
            replica.drain()
            await replica.control.next(Kind.RESPONSE, 2)
            await working.next(Kind.GOAWAY)
            await idle.next(Kind.GOAWAY)
            idle.call(1, "echo", 1)
            await idle.next(Kind.BUSY, 1)
            idle.hang_up()
            gate.open()
            assert await working.answer(1) == "finished"
            await working.nothing_more()
            assert not replica.replica.drained.is_set(), "a caller may still have something on its way"
            working.hang_up()
            await replica.replica.drained.wait()

    run(test())


def test_drain_does_not_wait_for_the_controllers_channel_and_may_be_asked_twice() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            replica.drain()
            replica.drain()
            await replica.replica.drained.wait()
            assert not replica.control.lost.is_set()

    run(test())


def test_nobody_is_offered_a_slot_of_a_draining_replica() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            working, waiting = await peers(scene, replica, 2)
            working.call(1)
            await gate.entered.get()
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()
            replica.drain()
            await waiting.next(Kind.GOAWAY)
            gate.open()
            await working.next(Kind.GOAWAY)
            await working.answer(1)
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()

    run(test())


def test_whoever_dials_a_draining_replica_is_told_to_go() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [working] = await peers(scene, replica, 1)
            working.call(1)
            await gate.entered.get()
            replica.drain()
            await working.next(Kind.GOAWAY)
            [late] = await peers(scene, replica, 1)
            await late.next(Kind.GOAWAY)
            late.hang_up()
            gate.open()
            await working.answer(1)
            working.hang_up()
            await replica.replica.drained.wait()

    run(test())


def test_close_cancels_what_runs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            peer.call(2)
            await gate.entered.get()
            await gate.entered.get()
            await replica.replica.close()
            assert (gate.running, replica.load) == (0, 0)
            await peer.lost.wait()
            await replica.replica.close()

    run(test())
