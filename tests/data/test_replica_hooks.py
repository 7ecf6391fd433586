"""What the controller asks of a replica, again and again: ``check_health`` and ``record_autoscaling_stats``."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import msgspec
import pytest

from salver.serve.context import get_replica_context
from salver.wire.frames import Frame, Kind
from salver.wire.messages import (
    CheckHealth,
    Constructed,
    ErrorKind,
    ErrorMeta,
    RecordStats,
    decode_constructed,
    decode_error,
    encode,
)
from salver.wire.payload import dump_definition

from .scene import GATES, Gate, Gated, RunningReplica, Scene, run, turns

ASYNC_AND_DEF = pytest.mark.parametrize("kind", ["async", "def"])


async def construct(scene: Scene, target: object, *args: object, rank: int = -1, **settings: Any) -> Frame:
    replica = await scene.bare_replica()
    return await replica.initialize(dump_definition((target, args, {})), 1, rank, **settings)


async def ask(replica: RunningReplica, stream: int, message: CheckHealth | RecordStats) -> Frame:
    replica.control.send(Kind.CONTROL, stream, b"", encode(message))
    frame = await replica.control.frames.get()
    assert frame.stream == stream
    return frame


def refusal(frame: Frame) -> ErrorMeta:
    assert frame.kind == Kind.ERROR
    return decode_error(frame.meta)


# --- check_health -----------------------------------------------------------------------------------------


class Checked:
    """Its health waits at the gate, which says how it is."""

    def __init__(self, gate: str) -> None:
        self.gate: Gate = GATES[gate]
        self.threads: set[int] = set()

    async def work(self) -> int:
        return len(self.threads)


class CheckedAsync(Checked):
    async def check_health(self) -> None:
        await self.gate.hold("check")


class CheckedDef(Checked):
    """A thread that nobody can stop, so the test opens a lock."""

    def __init__(self, gate: str) -> None:
        super().__init__(gate)
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()

    def check_health(self) -> None:
        assert get_replica_context().deployment == "d"
        assert threading.get_ident() != self.loop_thread
        asyncio.run_coroutine_threadsafe(self.gate.hold("check"), self.loop).result(timeout=20)


CHECKED = {"async": CheckedAsync, "def": CheckedDef}


@ASYNC_AND_DEF
def test_the_first_check_must_pass_before_the_first_request(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.bare_replica()
            constructing = asyncio.create_task(replica.initialize(dump_definition((CHECKED[kind], (name,), {})), 1))
            peer = await scene.peer(replica)
            await gate.entered.get()
            peer.call(1)
            await peer.next(Kind.BUSY, 1)
            gate.open()
            assert decode_constructed((await constructing).meta) == Constructed("", checks_health=True)
            await peer.next(Kind.READY)

    run(test())


@ASYNC_AND_DEF
def test_a_first_check_that_hangs_fails_like_a_constructor(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            meta = refusal(await construct(scene, CHECKED[kind], name, health_check_timeout_s=0.05))
            assert (meta.kind, meta.message) == (ErrorKind.FIRST_CHECK, "check_health did not return within 0.05 s")
            gate.open()  # for the thread, which goes on
            await turns(50)

    run(test())


@ASYNC_AND_DEF
def test_who_asks_while_a_check_runs_gets_its_outcome(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            gate.open()
            replica = await scene.replica(CHECKED[kind], name)
            await gate.entered.get()
            for stream in (5, 6):
                replica.control.send(Kind.CONTROL, stream, b"", encode(CheckHealth()))
            await gate.entered.get()
            peer = await scene.peer(replica)
            peer.call(1, "work")
            assert await peer.answer(1) == 0, "requests are served meanwhile"
            gate.open()
            await replica.control.next(Kind.RESPONSE, 5)
            await replica.control.next(Kind.RESPONSE, 6)
            assert gate.entered.empty()
            gate.open()
            assert (await ask(replica, 7, CheckHealth())).kind == Kind.RESPONSE

    run(test())


class Unwell:
    def __init__(self, ways: list[str]) -> None:
        self.ways = ways

    def check_health(self) -> None:
        way = self.ways.pop(0)
        if way == "raises":
            raise ConnectionError("the database is away")
        if way == "exits":
            sys.exit("bye")
        if way == "stops":
            next(iter(()))


def test_an_unwell_object_says_so_and_nothing_else_happens() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Unwell, ["well", "raises", "exits", "stops", "well"])
            meta = refusal(await ask(replica, 2, CheckHealth()))
            assert (meta.kind, meta.type_name, meta.message) == (
                ErrorKind.USER,
                "ConnectionError",
                "the database is away",
            )
            assert 'raise ConnectionError("the database is away")' in meta.traceback
            assert refusal(await ask(replica, 3, CheckHealth())).message == "check_health raised SystemExit: bye"
            assert refusal(await ask(replica, 4, CheckHealth())).message == "check_health raised StopIteration"
            assert (await ask(replica, 5, CheckHealth())).kind == Kind.RESPONSE

    run(test())


class FirstUnwell(Unwell):
    def __init__(self) -> None:
        super().__init__(["raises"])


def test_a_first_check_that_fails_is_told_as_that_and_no_constructors_failure() -> None:
    async def test() -> None:
        async with Scene() as scene:
            meta = refusal(await construct(scene, FirstUnwell))
            assert (meta.kind, meta.type_name) == (ErrorKind.FIRST_CHECK, "ConnectionError")
            assert "in check_health" in meta.traceback

    run(test())


class Answering:
    """Has an answer to every name, as proxies of other libraries do."""

    __serve_build_asgi_app__ = None

    def __getattr__(self, name: str) -> Any:
        def answer(*_: object) -> None:
            raise AssertionError(f"{name} was called")

        return answer


def function() -> str:
    return "of a function"


@pytest.mark.parametrize("target", [Gated, Answering, function])
def test_objects_without_hooks_have_none(target: object) -> None:
    async def test() -> None:
        async with Scene() as scene:
            args = (scene.gate()[0],) if target is Gated else ()
            assert decode_constructed((await construct(scene, target, *args, rank=4)).meta) == Constructed(rank=4)

    run(test())


# --- record_autoscaling_stats -----------------------------------------------------------------------------


class Stats:
    def __init__(self, stats: Any) -> None:
        self.stats = stats


class StatsAsync(Stats):
    async def record_autoscaling_stats(self) -> Any:
        return self.stats


class StatsDef(Stats):
    def record_autoscaling_stats(self) -> Any:
        return self.stats


STATS = {"async": StatsAsync, "def": StatsDef}


@ASYNC_AND_DEF
def test_stats_are_the_answer(kind: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(STATS[kind], {"queue": 3, "gpu": 0.5})
            frame = await ask(replica, 2, RecordStats())
            assert msgspec.msgpack.decode(frame.meta, type=dict[str, float]) == {"queue": 3.0, "gpu": 0.5}
            again = await replica.initialize(b"", 1)
            assert decode_constructed(again.meta) == Constructed(records_stats=True)

    run(test())


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        (None, "record_autoscaling_stats returned a NoneType, not a dict of numbers"),
        ({"a": "many"}, "record_autoscaling_stats: 'a' is a str, not a number"),
        ({"a": True}, "record_autoscaling_stats: 'a' is a bool, not a number"),
        ({"a": float("nan")}, "record_autoscaling_stats: 'a' is nan, not a finite number"),
        ({1: 1}, "record_autoscaling_stats returned a int as a name, not a str"),
        (
            {str(n): n for n in range(1001)},
            "record_autoscaling_stats returned 1001 numbers, at most 1000 are allowed",
        ),
    ],
)
def test_stats_that_are_no_numbers_are_named(stats: Any, message: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(StatsDef, stats)
            assert refusal(await ask(replica, 2, RecordStats())).message == message

    run(test())
