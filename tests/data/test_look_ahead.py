"""Requests that wait at a replica: when, how many, and what becomes of them."""

from __future__ import annotations

import asyncio

import pytest

from salver.data.replica.slots import Slots
from salver.data.routing import pace as pace_module
from salver.data.routing import router as router_module
from salver.data.routing.reservation import Reservation
from salver.data.routing.router import Router
from salver.errors import BackPressureError
from salver.wire.frames import AHEAD, Frame, Kind

from .scene import Gate, RecordedCall, RunningReplica, Scene, deployment_route, run, submit, turns


@pytest.fixture(autouse=True)
def any_pace_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of a test may be slow."""
    monkeypatch.setattr(pace_module, "_HORIZON_S", 1000.0)
    return


async def keeping_pace(scene: Scene, *replicas: RunningReplica, **settings: int) -> Router:
    """A router to which the replicas have shown their pace."""
    router = scene.router(*(replica.route for replica in replicas), **settings)
    while len(router.replica_ids()) < len(replicas):
        await asyncio.sleep(0.001)
    calls = [submit(router, "echo", number) for number in range(60)]
    assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(60))
    return router


async def running_and_ahead(router: Router, gate: Gate, ahead: int = 3) -> tuple[RecordedCall, list[RecordedCall]]:
    """One call in user code, others behind it at the same replica."""
    first = submit(router, "work", "first")
    assert await gate.entered.get() == "first"
    behind = [submit(router, "work", number) for number in range(ahead)]
    return first, behind


def test_requests_wait_at_a_replica_whose_pace_is_known_and_keep_their_order() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate)
            assert all(call.dispatched for call in behind)
            assert (router.queued, router.waiting) == (3, 3)
            await replica.control.nothing_more()
            assert (gate.running, replica.load) == (1, 1)
            gate.open(4)
            assert await asyncio.gather(first.outcome, *(call.outcome for call in behind)) == ["first", 0, 1, 2]
            assert (gate.left, gate.most) == (["first", 0, 1, 2], 1)
            assert (router.queued, replica.load) == (0, 0)

    run(test())


def test_requests_do_not_wait_at_a_replica_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "_HORIZON_S", 1e-9)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate)
            assert not any(call.dispatched for call in behind)
            gate.open(4)
            assert await asyncio.gather(first.outcome, *(call.outcome for call in behind)) == ["first", 0, 1, 2]

    run(test())


def test_at_most_so_many_wait_at_a_replica_and_the_others_behind_them() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            count = 2 * pace_module.MOST_AHEAD
            first, behind = await running_and_ahead(router, gate, count)
            assert sum(bool(call.dispatched) for call in behind) == pace_module.MOST_AHEAD
            assert router.queued == count
            gate.open(1 + count)
            assert await asyncio.gather(*(call.outcome for call in behind)) == list(range(count))
            assert first.outcome.result() == "first"

    run(test())


@pytest.mark.parametrize("what", ["large", "model", "session"])
def test_some_requests_wait_for_a_choice_of_replicas(what: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first = submit(router, "work", "first")
            await gate.entered.get()
            call = RecordedCall("work", what)
            call.may_go_ahead = what != "large"
            call.model_id = "m" if what == "model" else ""
            call.session_id = "s" if what == "session" else ""
            router.submit(call)
            assert not call.dispatched
            gate.open(2)
            assert await asyncio.gather(first.outcome, call.outcome) == ["first", what]

    run(test())


def test_what_waits_at_a_replica_counts_as_queued() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica, max_queued=-1)
            router.update(deployment_route(replica.route, max_queued=2))
            first, behind = await running_and_ahead(router, gate, 2)
            assert all(call.dispatched for call in behind)
            refused = submit(router)
            assert isinstance(refused.outcome.exception(), BackPressureError)
            gate.open(3)
            await asyncio.gather(first.outcome, *(call.outcome for call in behind))

    run(test())


def test_a_replica_that_dies_had_not_started_what_waited_there() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            router = await keeping_pace(scene, replica, capacity=2)
            running = [submit(router), submit(router)]
            for _ in running:
                await gate.entered.get()
            behind = [submit(router, "work", number) for number in range(4)]
            assert all(call.dispatched for call in behind)
            await replica.control.nothing_more()
            await replica.die()
            for call in running:
                with pytest.raises(ConnectionError):
                    await call.outcome
            successor, gate = await scene.gated_replica(capacity=2)
            router.update(deployment_route(successor.route, capacity=2))
            gate.open(4)
            assert await asyncio.gather(*(call.outcome for call in behind)) == [0, 1, 2, 3]
            assert [call.attempts for call in behind] == [1] * 4

    run(test())


def test_a_place_that_is_held_for_a_request_to_come_is_none_that_runs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            router = await keeping_pace(scene, replica, capacity=2)
            place = Reservation()
            router.reserve(place)
            await place.ready
            calls = [submit(router, "work", number) for number in range(4)]
            assert {await gate.entered.get(), await gate.entered.get()} == {0, 1}  # nothing was sent in that place
            await replica.die()
            outcomes = await asyncio.gather(*(call.outcome for call in calls[:2]), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 2
            successor, gate = await scene.gated_replica(capacity=2)
            router.update(deployment_route(successor.route, capacity=2))
            gate.open(2)
            assert await asyncio.gather(*(call.outcome for call in calls[2:])) == [2, 3]

    run(test())


def test_what_waits_at_a_replica_that_has_stalled_is_served_by_another() -> None:
    async def test() -> None:
        async with Scene() as scene:
            first, first_gate = await scene.gated_replica()
            second, second_gate = await scene.gated_replica()
            router = await keeping_pace(scene, first, second)
            running = [submit(router, "work", number) for number in range(2)]
            await first_gate.entered.get()
            await second_gate.entered.get()
            behind = [submit(router, "work", number) for number in range(2, 8)]
            assert len({tuple(call.dispatched) for call in behind}) == 2  # some at each
            second_gate.open(10)  # the other one ends nothing
            assert await asyncio.gather(*(call.outcome for call in behind)) == [2, 3, 4, 5, 6, 7]
            assert len(first_gate.left) == 0
            first_gate.open()
            assert await asyncio.gather(*(call.outcome for call in running)) == [0, 1]

    run(test())


def test_a_request_that_is_cancelled_where_it_waits_never_starts() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate)
            assert behind[1].link is not None
            behind[1].link.cancel(behind[1].stream)
            gate.open(4)
            assert await asyncio.gather(first.outcome, behind[0].outcome, behind[2].outcome) == ["first", 0, 2]
            assert gate.left == ["first", 0, 2]
            assert router.queued == 0

    run(test())


def test_a_replica_that_drains_gives_back_what_waits_there() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate)
            await replica.control.nothing_more()
            replica.drain()
            while router.replica_ids():
                await asyncio.sleep(0.001)
            successor, other = await scene.gated_replica()
            router.update(deployment_route(successor.route))
            other.open(3)
            assert await asyncio.gather(*(call.outcome for call in behind)) == [0, 1, 2]
            gate.open()
            assert await first.outcome == "first"
            await replica.replica.drained.wait()

    run(test())


def test_a_replica_off_the_list_is_asked_for_what_waits_there() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate)
            successor, other = await scene.gated_replica()
            router.update(deployment_route(successor.route))
            other.open(3)
            assert await asyncio.gather(*(call.outcome for call in behind)) == [0, 1, 2]
            gate.open()
            assert await first.outcome == "first"

    run(test())


def test_callers_that_send_ahead_and_those_that_ask_take_turns() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = await keeping_pace(scene, replica)
            first, behind = await running_and_ahead(router, gate, 10)
            await replica.control.nothing_more()
            asking = await scene.peer(replica)
            asking.send(Kind.WAIT)
            await replica.control.nothing_more()
            gate.open(2)
            await asking.next(Kind.READY, 0)
            assert len(gate.left) == 2
            asking.call(1, "work", "asked")
            gate.open(10)
            await asking.next(Kind.RESPONSE, 1)
            assert gate.left[:3] == ["first", 0, "asked"]
            assert await asyncio.gather(*(call.outcome for call in behind)) == list(range(10))
            assert first.outcome.done()

    run(test())


def test_more_slots_are_told_before_anything_starts_in_them() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            peer = await scene.peer(replica)
            for stream in (1, 2, 3):
                peer.call(stream, "work", stream, flags=AHEAD)
            await gate.entered.get()
            assert peer.slots == [1]
            await replica.reconfigured(7, capacity=3)
            await gate.entered.get()
            await gate.entered.get()
            await peer.nothing_more()
            assert peer.slots == [1, 3]
            gate.open(3)
            for stream in (1, 2, 3):
                await peer.next(Kind.RESPONSE, stream)

    run(test())


class Backlogged:
    """A channel whose other end takes nothing, as far as slots use it."""

    def __init__(self) -> None:
        self.backlog_bytes = 1
        self.sent: list[tuple[int, int]] = []

    def send(self, kind: int, stream: int = 0, load: int = 0) -> None:
        self.sent.append((kind, stream))

    def flush(self) -> None: ...


def test_a_caller_that_does_not_read_gets_back_what_it_sent_ahead() -> None:
    """An answer that it has not got may have made room for what waits: it could not know what has started."""

    async def test() -> None:
        started: list[int] = []
        slots = Slots(memoryview(bytearray(1)), 0, lambda _, frame: started.append(frame.stream))
        slots.open(1)
        channel = Backlogged()
        assert slots.take(channel)  # type: ignore[arg-type]
        for stream in (2, 3):
            assert slots.keep(channel, Frame(Kind.CALL, AHEAD, stream, 0, b"", b""))  # type: ignore[arg-type]
        slots.give_back()
        await turns()
        assert started == []
        assert channel.sent == [(Kind.BUSY, 2), (Kind.BUSY, 3), (Kind.READY, 0)]
        channel.backlog_bytes = 0
        assert slots.take(channel)  # type: ignore[arg-type]
        assert slots.keep(channel, Frame(Kind.CALL, AHEAD, 4, 0, b"", b""))  # type: ignore[arg-type]
        slots.give_back()
        await turns()
        assert started == [4]
        slots.clear()

    run(test())


def test_nobody_looks_for_stalled_replicas_when_nothing_waits_there() -> None:
    async def test() -> None:
        async with Scene() as scene:
            first, _ = await scene.gated_replica()
            second, _ = await scene.gated_replica()
            router = await keeping_pace(scene, first, second)
            while router._look_timer is not None:
                await asyncio.sleep(router_module._STALLED_AFTER_S)
            router.close()

    run(test())
