"""An engine under test, what it has told, and a caller of the replicas that it starts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from salver.controller.metrics_store import MetricsStore
from salver.controller.replica_client import ReplicaClient
from salver.data.channel import Channel, Connect
from salver.engine.interface import Engine, EngineEvent, ReplicaProcess, Started
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec
from salver.telemetry.metrics import Registry
from salver.wire.frames import SHARED, Buffer, Frame, Kind
from salver.wire.messages import PROTOCOL_VERSION, CallMeta, Hello, Initialize, encode
from salver.wire.payload import dump_definition

WITHIN_S = 20.0
DEPLOYMENT = DeploymentId("app", "Probe")


class World:
    """An engine, how to reach what it starts, and what it has told.

    Args:
        registry: the one that its replicas count into where they do not push; else of nobody.
    """

    def __init__(self, engine: Engine, connect: Connect, key: bytes, registry: Registry | None = None) -> None:
        self.engine = engine
        self.connect = connect
        self.key = key
        self.metrics = MetricsStore(registry or Registry())
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
        self.engine.start(named(suffix, slot))
        event = await self.next_event()
        assert isinstance(event, Started), event
        return event.process

    async def running(self) -> list[ReplicaProcess]:
        """What runs, as it was when it was started: without its age."""
        return [replace(process, age_s=0.0) for process in await self.engine.processes()]

    def client(self, process: ReplicaProcess) -> ReplicaClient:
        """The controller's connection to it."""
        return ReplicaClient(self.connect, process.address, self.key, self.metrics)

    @asynccontextmanager
    async def initialized(self, process: ReplicaProcess, target: object) -> AsyncIterator[ReplicaClient]:
        """Have it serve ``target``."""
        client = self.client(process)
        async with asyncio.timeout(WITHIN_S):
            await client.ask(initialize(process, target))
        yield client
        client.close()

    @asynccontextmanager
    async def caller(self, process: ReplicaProcess) -> AsyncIterator[Caller]:
        """Somebody who calls it."""
        caller = Caller()
        hello = Hello(PROTOCOL_VERSION, self.key, "caller")
        caller.channel = await self.connect(process.address, lambda: Channel(caller, hello=hello))
        yield caller
        caller.channel.close()

    @asynccontextmanager
    async def serving(self, suffix: str, target: object) -> AsyncIterator[tuple[ReplicaProcess, Caller]]:
        """A replica that serves ``target``, and its caller."""
        process = await self.start(suffix, 1)
        async with self.initialized(process, target), self.caller(process) as caller:
            yield process, caller


class Caller:
    """One end of a channel, which keeps what it gets."""

    channel: Channel

    def __init__(self) -> None:
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.lost = asyncio.Event()

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        if frame.kind != Kind.SLOTS:
            self._frames.put_nowait(frame)

    def channel_lost(self, channel: Channel) -> None:
        self.lost.set()

    def call(self, stream: int, meta: CallMeta, payload: Buffer, *, shared: bool = False) -> None:
        self.channel.send(Kind.CALL, stream, encode(meta), payload, SHARED if shared else 0)

    async def next(self, kind: int, *streams: int) -> Frame:
        """The next frame, which must be of this kind and one of these streams."""
        async with asyncio.timeout(WITHIN_S):
            frame = await self._frames.get()
        assert frame.kind == kind, frame
        assert frame.stream in (streams or (0,)), frame
        return frame


def named(suffix: str, slot: int) -> ReplicaProcess:
    return ReplicaProcess(f"app#Probe#{suffix}", DEPLOYMENT, "v1", slot)


def initialize(process: ReplicaProcess, target: object) -> Initialize:
    spec = DeploymentSpec(DEPLOYMENT, "v1", dump_definition((target, (), {})))
    return Initialize(process.replica_id, ApplicationSpec("app", None, "Probe", (spec,)), spec)
