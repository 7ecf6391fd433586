"""A running replica that is told its new settings: ``reconfigure``, ranks, slots, in order and all or nothing."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from salver.data.context import ReplicaRank
from salver.records import LoggingSpec
from salver.serve.context import get_replica_context
from salver.wire.frames import Frame, Kind
from salver.wire.messages import ErrorKind, ErrorMeta, decode_error
from salver.wire.payload import dump_definition

from .scene import Gated, Peer, Scene, run, turns


def refusal(frame: Frame) -> ErrorMeta:
    assert frame.kind == Kind.ERROR
    return decode_error(frame.meta)


async def value(peer: Peer, stream: int, method: str, *args: object) -> Any:
    peer.call(stream, method, *args)
    return await peer.answer(stream)


# --- reconfigure ------------------------------------------------------------------------------------------


class Configured:
    """Keeps what it is told, with what it could know of itself then."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reconfigure(self, user_config: Any) -> None:
        if user_config == "broken":
            raise ValueError("no such threshold")
        if user_config == "exits":
            sys.exit(3)
        if user_config == "cancels":
            raise asyncio.CancelledError
        self.told.append(user_config)

    async def all(self) -> list[Any]:
        return self.told

    async def context(self) -> tuple[ReplicaRank | None, int]:
        context = get_replica_context()
        return context.rank, context.world_size


class Ranked(Configured):
    def reconfigure(self, user_config: Any, rank: ReplicaRank | None) -> None:  # type: ignore[override]
        context = get_replica_context()
        assert context.rank == rank
        assert context.servable_object is self
        self.told.append((user_config, None if rank is None else (rank.rank, rank.node_rank, rank.local_rank)))


class NamedRank(Configured):
    async def reconfigure(self, config: Any, *, verbose: bool = False, rank: Any = None) -> None:  # type: ignore[override]
        self.told.append((config, verbose, rank.rank))


class NoRank(Configured):
    def reconfigure(self, user_config: Any, strict: bool = False) -> None:
        self.told.append((user_config, strict))


def told_by(target: object, *steps: tuple[int, Any]) -> list[Any]:
    """What a class was told, constructed with the first rank and config and reconfigured with the others."""
    told: list[Any] = []

    async def test() -> None:
        async with Scene() as scene:
            rank, user_config = steps[0]
            replica = await scene.replica(target, rank=rank, user_config=user_config)
            peer = await scene.peer(replica)
            for number, (rank, user_config) in enumerate(steps[1:], start=2):
                await replica.reconfigured(number, rank=rank, user_config=user_config)
            told.extend(await value(peer, 1, "all"))

    run(test())
    return told


def test_only_news_reach_reconfigure() -> None:
    assert told_by(Configured, (0, {"a": 1}), (0, {"a": 1}), (0, {"a": 2}), (1, {"a": 2})) == [{"a": 1}, {"a": 2}]
    assert told_by(Configured, (0, {"a": 1}), (0, {"a": True})) == [{"a": 1}, {"a": True}], "equal, but not the same"


def test_a_class_without_user_config_is_not_called_unless_it_takes_a_rank() -> None:
    assert told_by(Configured, (0, None), (1, None)) == []
    assert told_by(Ranked, (0, None), (0, None), (2, None)) == [(None, (0, 0, 0)), (None, (2, 0, 2))]
    assert told_by(Ranked, (-1, "a"), (0, "a")) == [("a", None), ("a", (0, 0, 0))]


def test_the_rank_is_found_by_its_name_or_as_the_second_argument() -> None:
    assert told_by(NamedRank, (1, "a"), (1, "b")) == [("a", False, 1), ("b", False, 1)]
    assert told_by(NoRank, (1, "a"), (2, "b")) == [("a", False), ("b", False)]


def test_the_context_follows() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Configured, rank=1, num_replicas=2)
            peer = await scene.peer(replica)
            assert await value(peer, 1, "context") == (ReplicaRank(1, 0, 1), 2)
            await replica.reconfigured(2, rank=0, num_replicas=1)
            assert await value(peer, 2, "context") == (ReplicaRank(0, 0, 0), 1)

    run(test())


@pytest.mark.parametrize(
    ("user_config", "type_name", "message"),
    [
        ("broken", "ValueError", "no such threshold"),
        ("exits", "RuntimeError", "reconfigure raised SystemExit: 3"),
        ("cancels", "RuntimeError", "reconfigure raised CancelledError"),
    ],
)
def test_a_failing_reconfigure_changes_nothing(user_config: str, type_name: str, message: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Configured, rank=0, user_config="good")
            peer = await scene.peer(replica)
            replica.reconfigure(2, capacity=4, rank=1, user_config=user_config, num_replicas=7)
            meta = refusal(await replica.control.frames.get())
            assert (meta.kind, meta.type_name, meta.message) == (ErrorKind.USER, type_name, message)
            assert "in reconfigure" in meta.traceback
            assert "hooks.py" not in meta.traceback, "our own frames say nothing to the user"
            assert await value(peer, 1, "context") == (ReplicaRank(0, 0, 0), 1)
            await replica.reconfigured(3, rank=0, user_config="good")
            assert await value(peer, 2, "all") == ["good", "good"], "nobody knows how far the failed one came"

    run(test())


class Held(Gated):
    """Its reconfigure waits at the gate, unless it is told None."""

    async def reconfigure(self, user_config: str) -> None:
        await self.gate.hold(user_config)


def test_requests_are_served_while_reconfigure_runs_and_the_next_one_waits_for_it() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Held, name)
            peer = await scene.peer(replica)
            replica.reconfigure(2, user_config="first")
            replica.reconfigure(3, user_config="second")
            assert await gate.entered.get() == "first"
            assert await value(peer, 1, "echo", "served") == "served"
            assert gate.entered.empty()
            gate.open()
            await replica.control.next(Kind.RESPONSE, 2)
            assert await gate.entered.get() == "second"
            gate.open()
            await replica.control.next(Kind.RESPONSE, 3)

    run(test())


def test_what_comes_before_the_constructor_has_ended_waits_and_before_it_has_begun_fails() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.bare_replica()
            replica.reconfigure(7, user_config="early")
            meta = refusal(await replica.control.next(Kind.ERROR, 7))
            assert meta.message == "the replica has not constructed its user's object"
            gate.open()
            constructing = asyncio.create_task(
                replica.initialize(dump_definition((Held, (name,), {})), 1, user_config="first")
            )
            await turns()
            replica.reconfigure(8, user_config="second")
            assert (await constructing).stream == 1
            assert [await gate.entered.get(), await gate.entered.get()] == ["first", "second"]
            gate.open()
            await replica.control.next(Kind.RESPONSE, 8)

    run(test())


def test_close_ends_a_reconfigure_that_hangs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Held, name)
            replica.reconfigure(2, user_config="hangs")
            replica.reconfigure(3, user_config="in line")
            await gate.entered.get()
            await replica.replica.close()
            assert gate.left == ["hangs"]

    run(test())


# --- slots that grow and shrink ---------------------------------------------------------------------------


def test_slots_that_are_added_are_offered_to_those_in_line() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=1)
            holder, first, second = [await scene.peer(replica, f"caller {number}") for number in range(3)]
            holder.call(1)
            await gate.entered.get()
            for peer in (first, second):
                peer.send(Kind.WAIT)
                await peer.nothing_more()
            await replica.reconfigured(2, capacity=2)
            await first.next(Kind.READY)
            await second.nothing_more()
            await replica.reconfigured(3, capacity=3)
            await second.next(Kind.READY)
            first.call(1)
            second.call(1)
            for _ in range(2):
                await gate.entered.get()
            assert (gate.running, replica.load) == (3, 3)
            gate.open(3)

    run(test())


def test_slots_that_are_taken_away_stop_nothing_that_runs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=3)
            peer = await scene.peer(replica)
            for stream in (1, 2, 3):
                peer.call(stream)
                await gate.entered.get()
            await replica.reconfigured(2, capacity=1)
            assert gate.running == 3
            gate.open(2)
            assert {(await peer.frames.get()).kind for _ in range(2)} == {Kind.RESPONSE}
            peer.call(4)
            await peer.next(Kind.BUSY, 4)
            gate.open()
            assert {(await peer.frames.get()).kind for _ in range(2)} == {Kind.RESPONSE, Kind.READY}
            peer.call(5)
            peer.call(6)
            await gate.entered.get()
            await peer.next(Kind.BUSY, 6)
            gate.open()

    run(test())


class Threaded:
    """Its ``def`` handler meets the others in the pool's threads."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    def meet(self) -> int:
        return self.barrier.wait(timeout=20)


def test_the_pool_has_a_thread_for_every_slot_that_was_added() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Threaded, 3, capacity=1)
            peer = await scene.peer(replica)
            await replica.reconfigured(2, capacity=3)
            for stream in (1, 2, 3):
                peer.call(stream, "meet")
            assert sorted([(await peer.frames.get()).kind for _ in range(3)]) == [Kind.RESPONSE] * 3

    run(test())


def test_a_draining_replica_gives_no_slots_for_a_reconfigure() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=1)
            peer = await scene.peer(replica)
            peer.call(1)
            await gate.entered.get()
            replica.drain()
            await replica.control.next(Kind.RESPONSE, 2)
            await replica.control.next(Kind.GOAWAY)
            await replica.reconfigured(3, capacity=5)
            await peer.next(Kind.GOAWAY)
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            gate.open()
            await peer.next(Kind.RESPONSE, 1)

    run(test())


def test_logging_is_told_when_it_changes() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Configured)
            told: list[LoggingSpec | None] = []
            replica.replica._on_logging = told.append
            await replica.reconfigured(2)
            await replica.reconfigured(3, logging=LoggingSpec(log_level=10))
            await replica.reconfigured(4, logging=LoggingSpec(log_level=10))
            await replica.reconfigured(5)
            assert told == [LoggingSpec(log_level=10), None]

    run(test())
