"""What every engine must do: one suite, run on all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from salver.controller.replica_client import ReplicaClient, ReplicaGone
from salver.data.channel import Connect
from salver.engine.interface import Engine, EngineEvent, Exited, ReplicaProcess, Started
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec
from salver.wire.messages import Drain, Initialize
from salver.wire.payload import dump_definition

WITHIN_S = 20.0
DEPLOYMENT = DeploymentId("app", "Echo")


def echo(value: object) -> object:
    """The user code of the suite."""
    return value


class World:
    """An engine, how to reach what it starts, and what it has told."""

    def __init__(self, engine: Engine, connect: Connect, key: bytes) -> None:
        self.engine = engine
        self.connect = connect
        self.key = key
        self.events: deque[EngineEvent] = deque()
        self._arrived = asyncio.Event()

    def open(self) -> None:
        self.engine.open(self._event)

    def _event(self, event: EngineEvent) -> None:
        self.events.append(event)
        self._arrived.set()

    async def next_event(self) -> EngineEvent:
        async with asyncio.timeout(WITHIN_S):
            while not self.events:
                self._arrived.clear()
                await self._arrived.wait()
        return self.events.popleft()

    async def start(self, suffix: str, slot: int) -> ReplicaProcess:
        self.engine.start(ReplicaProcess(f"app#Echo#{suffix}", DEPLOYMENT, "v1", slot))
        event = await self.next_event()
        assert isinstance(event, Started), event
        return event.process

    def client(self, process: ReplicaProcess) -> ReplicaClient:
        return ReplicaClient(self.connect, process.address, self.key)


MakeEngine = Callable[[], AbstractAsyncContextManager[World]]


async def check_engine(make_engine: MakeEngine) -> int:
    """Run every check on a fresh engine; returns how many there were."""
    for check in CHECKS:
        async with make_engine() as world:
            await check(world)
            assert not world.events, f"{check.__name__}: nobody asked for {world.events}"
    return len(CHECKS)


async def starts_lists_and_kills(world: World) -> None:
    assert await world.engine.processes() == []
    process = await world.start("aaaa", 3)
    assert process.replica_id == "app#Echo#aaaa"
    assert (process.deployment, process.version, process.slot) == (DEPLOYMENT, "v1", 3)
    assert process.pid > 0
    assert process.address
    assert await world.engine.processes() == [process]
    world.engine.kill(process.replica_id)
    assert await world.next_event() == Exited(process.replica_id, (await_cause(world)))
    assert await world.engine.processes() == []


def await_cause(world: World) -> str:
    """What a kill is called: by the signal where there are processes."""
    return "was killed" if type(world.engine).__name__ == "MemoryEngine" else "killed by SIGKILL"


async def starting_twice_is_starting_once(world: World) -> None:
    first = await world.start("bbbb", 0)
    second = await world.start("bbbb", 0)
    assert first == second
    assert await world.engine.processes() == [first]


async def killing_what_does_not_run_says_so(world: World) -> None:
    world.engine.kill("app#Echo#none")
    event = await world.next_event()
    assert isinstance(event, Exited)
    assert event.replica_id == "app#Echo#none"


async def a_started_replica_can_be_dialled_and_constructed(world: World) -> None:
    process = await world.start("cccc", 1)
    client = world.client(process)
    async with asyncio.timeout(WITHIN_S):
        await client.ask(initialize(process))
        await client.ask(initialize(process))  # asked again it answers as before
    client.close()


async def a_drained_replica_exits_by_itself(world: World) -> None:
    process = await world.start("dddd", 1)
    client = world.client(process)
    async with asyncio.timeout(WITHIN_S):
        await client.ask(initialize(process))
        await client.ask(Drain())
    assert await world.next_event() == Exited(process.replica_id, "exited with code 0")
    client.close()
    assert await world.engine.processes() == []


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
    a_started_replica_can_be_dialled_and_constructed,
    a_drained_replica_exits_by_itself,
    many_are_kept_apart,
    a_killed_replica_cannot_be_dialled,
)


def initialize(process: ReplicaProcess) -> Initialize:
    spec = DeploymentSpec(DEPLOYMENT, "v1", dump_definition((echo, (), {})))
    return Initialize(process.replica_id, ApplicationSpec("app", None, "Echo", (spec,)), spec)


@asynccontextmanager
async def emptied(world: World) -> AsyncIterator[World]:
    """Kill what a check left, so that the next one starts from nothing."""
    yield world
    left = await world.engine.processes()
    for process in left:
        world.engine.kill(process.replica_id)
    for _ in left:
        await world.next_event()
