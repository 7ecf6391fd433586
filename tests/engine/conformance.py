"""What every engine must do: one suite, run on all of them. Here: the lives of replicas."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from salver.controller.replica_client import ReplicaGone
from salver.data.channel import Channel
from salver.engine.interface import Exited, Started
from salver.wire.frames import END, Kind
from salver.wire.messages import PROTOCOL_VERSION, STREAM_WINDOW_BYTES, Drain, Hello, encode_credit

from .conformance_calls import CALLS, Probe, ask, call
from .conformance_control import CONTROL
from .world import DEPLOYMENT, WITHIN_S, Caller, World, initialize, named

MakeEngine = Callable[[], AbstractAsyncContextManager[World]]


async def check_engine(make_engine: MakeEngine) -> int:
    """Run every check on a fresh engine; returns how many there were."""
    for check in CHECKS:
        async with make_engine() as world:
            await check(world)
            assert not world.events, f"{check.__name__}: nobody asked for {world.events}"
    return len(CHECKS)


@asynccontextmanager
async def emptied(world: World) -> AsyncIterator[World]:
    """Kill what a check left, so that the next one starts from nothing."""
    yield world
    left = await world.engine.processes()
    for process in left:
        world.engine.kill(process.replica_id)
    for _ in left:
        await world.next_event()


def killed(world: World, replica_id: str) -> Exited:
    """How the end of one that was killed is told: by the signal where there are processes."""
    if in_memory(world):
        return Exited(replica_id, "was killed")
    return Exited(replica_id, "killed by SIGKILL", exit_code=-signal.SIGKILL)


def left(world: World, replica_id: str) -> Exited:
    """How the end of one that was told to leave is told."""
    return Exited(replica_id, "exited with code 0", exit_code=None if in_memory(world) else 0)


def in_memory(world: World) -> bool:
    return type(world.engine).__name__ == "MemoryEngine"


async def starts_lists_and_kills(world: World) -> None:
    assert await world.engine.processes() == []
    process = await world.start("aaaa", 3)
    assert process.replica_id == "app#Probe#aaaa"
    assert (process.deployment, process.version, process.slot) == (DEPLOYMENT, "v1", 3)
    assert process.pid > 0
    assert process.address
    assert await world.running() == [process]
    await ages_grow(world)
    world.engine.kill(process.replica_id)
    assert await world.next_event() == killed(world, process.replica_id)
    assert await world.engine.processes() == []


async def ages_grow(world: World) -> None:
    """With the time since the start: a controller that has not seen it asks for nothing else."""
    before = time.monotonic()
    (first,) = await world.engine.processes()
    await asyncio.sleep(0.02)
    (second,) = await world.engine.processes()
    assert 0.02 <= second.age_s - first.age_s <= time.monotonic() - before
    assert 0.0 < first.age_s < WITHIN_S


async def starting_twice_is_starting_once(world: World) -> None:
    first = await world.start("bbbb", 0)
    second = await world.start("bbbb", 0)
    assert first == second
    assert await world.running() == [first]


async def killing_what_does_not_run_says_so(world: World) -> None:
    world.engine.kill("app#Probe#none")
    event = await world.next_event()
    assert isinstance(event, Exited)
    assert event.replica_id == "app#Probe#none"


async def what_is_killed_at_once_has_lived(world: World) -> None:
    world.engine.start(named("gggg", 0))
    world.engine.kill("app#Probe#gggg")
    events = [await world.next_event(), await world.next_event()]
    assert [type(event) for event in events] == [Started, Exited]
    assert await world.engine.processes() == []


async def a_started_replica_can_be_dialled_and_constructed(world: World) -> None:
    process = await world.start("cccc", 1)
    client = world.client(process)
    async with asyncio.timeout(WITHIN_S):
        await client.ask(initialize(process, Probe))
        await client.ask(initialize(process, Probe))  # asked again it answers as before
    client.close()


async def nobody_without_the_key_is_answered(world: World) -> None:
    process = await world.start("kkkk", 1)
    stranger = Caller()
    hello = Hello(PROTOCOL_VERSION, b"w" * 32, "stranger")
    stranger.channel = await world.connect(process.address, lambda: Channel(stranger, hello=hello))
    stranger.channel.send(Kind.CONTROL, 1, b"", b"")
    async with asyncio.timeout(WITHIN_S):
        await stranger.lost.wait()


async def a_drained_replica_exits_by_itself(world: World) -> None:
    process = await world.start("dddd", 1)
    async with world.initialized(process, Probe) as client, asyncio.timeout(WITHIN_S):
        await client.ask(Drain())
        assert await world.next_event() == left(world, process.replica_id)
    assert await world.engine.processes() == []


async def what_drains_finishes_first(world: World) -> None:
    process = await world.start("hhhh", 1)
    async with world.initialized(process, Probe) as client, world.caller(process) as caller:
        call(caller, 1, "large_items", 2, stream=True)
        await caller.next(Kind.HEAD, 1)
        await caller.next(Kind.DATA, 1)
        async with asyncio.timeout(WITHIN_S):
            await client.ask(Drain())
        await caller.next(Kind.GOAWAY)
        assert await world.running() == [process]
        caller.channel.send(Kind.CREDIT, 1, encode_credit(STREAM_WINDOW_BYTES))
        await caller.next(Kind.DATA, 1)
        caller.channel.send(Kind.CREDIT, 1, encode_credit(STREAM_WINDOW_BYTES))
        assert (await caller.next(Kind.DATA, 1)).flags & END
    assert await world.next_event() == left(world, process.replica_id)


async def what_drains_can_be_killed(world: World) -> None:
    async with world.serving("iiii", Probe) as (process, caller):
        call(caller, 1, "wait")
        assert await ask(caller, 2, "echo", 1) == 1
        client = world.client(process)
        async with asyncio.timeout(WITHIN_S):
            await client.ask(Drain())
        await caller.next(Kind.GOAWAY)
        world.engine.kill(process.replica_id)
        assert await world.next_event() == killed(world, process.replica_id)
        async with asyncio.timeout(WITHIN_S):
            await caller.lost.wait()
        client.close()


async def many_are_kept_apart(world: World) -> None:
    started = [await world.start(f"e{number:03}", number) for number in range(6)]
    assert len({process.address for process in started}) == 6
    assert {process.replica_id for process in await world.engine.processes()} == {p.replica_id for p in started}
    for process in started[::2]:
        world.engine.kill(process.replica_id)
    gone = {(await world.next_event()).replica_id for _ in started[::2]}  # type: ignore[union-attr]
    assert gone == {process.replica_id for process in started[::2]}
    assert {process.replica_id for process in await world.engine.processes()} == {
        process.replica_id for process in started[1::2]
    }


async def a_killed_replica_cannot_be_dialled(world: World) -> None:
    process = await world.start("ffff", 2)
    world.engine.kill(process.replica_id)
    await world.next_event()
    try:
        await world.client(process).ask(Drain())
    except ReplicaGone:
        return
    raise AssertionError("a replica that was killed answered")


CHECKS = (
    starts_lists_and_kills,
    starting_twice_is_starting_once,
    killing_what_does_not_run_says_so,
    what_is_killed_at_once_has_lived,
    a_started_replica_can_be_dialled_and_constructed,
    nobody_without_the_key_is_answered,
    a_drained_replica_exits_by_itself,
    what_drains_finishes_first,
    what_drains_can_be_killed,
    many_are_kept_apart,
    a_killed_replica_cannot_be_dialled,
    *CALLS,
    *CONTROL,
)
