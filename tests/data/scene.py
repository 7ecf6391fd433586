"""Real replicas, routers and channels on one event loop, over Unix sockets in a folder of their own.

User code and test share a ``Gate``: it counts who runs, and lets them finish when the test says so. Nothing here
waits for time to pass; what does not happen within ``WITHIN_S`` fails the test.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from salver.data.channel import Channel, connect_unix
from salver.data.load_board import LoadBoard
from salver.data.replica.replica import CONTROLLER, Replica
from salver.data.routing.replica_link import ReplicaLink
from salver.data.routing.router import Router
from salver.records import ApplicationSpec, CodeContext, DeploymentId, DeploymentSpec
from salver.wire.frames import END, Frame, FrameDecoder, Kind
from salver.wire.messages import (
    PROTOCOL_VERSION,
    CallMeta,
    Drain,
    Hello,
    Initialize,
    Reconfigure,
    RequestMeta,
    decode_error,
    encode,
)
from salver.wire.payload import dump_definition, dump_value, load_value
from salver.wire.snapshot import DeploymentRoute, ReplicaRoute

KEY = b"k" * 32
WITHIN_S = 30.0

uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good: no test leaves that behind


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on the loop that production uses; what asyncio would only log fails the test."""
    complaints: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(WITHIN_S):
            await test

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
    assert not complaints, complaints


def hello(sender: str = "caller", key: bytes = KEY) -> Hello:
    return Hello(PROTOCOL_VERSION, key, sender)


async def turns(count: int = 5) -> None:
    """Let everything run that can run without I/O."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """What user code passes through; ``hold`` returns when the test opens."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.entered: asyncio.Queue[object] = asyncio.Queue()
        self.left: list[object] = []
        self._permits = asyncio.Semaphore(0)

    async def hold(self, label: object) -> object:
        self.running += 1
        self.most = max(self.most, self.running)
        self.entered.put_nowait(label)
        try:
            await self._permits.acquire()
        finally:
            self.running -= 1
            self.left.append(label)
        return label

    def open(self, count: int = 1) -> None:
        for _ in range(count):
            self._permits.release()


GATES: dict[str, Gate] = {}


class Gated:
    """The user's class: its arguments are pickled, so it gets its gate by name."""

    def __init__(self, gate: str) -> None:
        self.gate = GATES[gate]

    async def work(self, label: object = None) -> object:
        return await self.gate.hold(label)

    async def echo(self, value: object) -> object:
        return value


class Peer:
    """One end of a channel that keeps what it gets; what the replica says of its slots is kept apart."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.slots: list[int] = []
        self.times_lost = 0
        self.channel: Channel | None = None

    async def dial(self, address: str, sender: str = "caller") -> Peer:
        self.channel = await connect_unix(address, lambda: Channel(self, hello=hello(sender)))
        return self

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == Kind.SLOTS:
            self.slots.append(frame.load)
        else:
            self.frames.put_nowait(frame)

    def channel_lost(self, channel: Channel) -> None:
        self.times_lost += 1
        self.lost.set()

    def send(self, kind: int, stream: int = 0, meta: bytes = b"", payload: bytes = b"", flags: int = 0) -> None:
        assert self.channel is not None
        self.channel.send(kind, stream, meta, payload, flags)

    def call(self, stream: int, method: str = "work", *args: object, flags: int = 0) -> None:
        meta = encode(CallMeta(method, f"request-{stream}"))
        self.send(Kind.CALL, stream, meta, bytes(dump_value((args, {}))), flags)

    def request(self, stream: int, body: bytes = b"", method: str = "GET", flags: int = END) -> None:
        """An HTTP request, as the proxy passes it on."""
        meta = RequestMeta(
            method,
            b"/root/path?q=1",
            [(b"host", b"h"), (b"content-type", b"application/python-pickle")],
            "http-id",
            "1.1",
            "/root",
            "app",
            "http",
            ("10.0.0.1", 5),
            ("10.0.0.2", 80),
        )
        self.send(Kind.REQUEST, stream, encode(meta), body, flags)

    async def next(self, kind: int, stream: int = 0) -> Frame:
        """The next frame, which must be this one."""
        frame = await self.frames.get()
        assert (Kind(frame.kind), frame.stream) == (Kind(kind), stream)
        return frame

    async def answer(self, stream: int) -> Any:
        """The value of a call; the next frame must be its RESPONSE."""
        return load_value((await self.next(Kind.RESPONSE, stream)).payload)

    async def nothing_more(self) -> None:
        """Everything sent so far has been read by the replica, and it said nothing but this in return."""
        self.send(Kind.CONTROL, 0xFFFF, b"", _AGAIN)
        await self.next(Kind.RESPONSE, 0xFFFF)

    def hang_up(self) -> None:
        assert self.channel is not None
        self.channel.abort()


def specs(definition: bytes, capacity: int, **settings: Any) -> tuple[ApplicationSpec, DeploymentSpec]:
    deployment = DeploymentSpec(DeploymentId("app", "d"), "v1", definition, max_ongoing_requests=capacity, **settings)
    return ApplicationSpec("app", "/", "d", (deployment,), CodeContext()), deployment


_AGAIN = encode(Initialize("again", *specs(b"", 1)))  # a replica that is initialized answers and does nothing


class RunningReplica:
    """A replica that listens, and its controller's channel."""

    def __init__(self, scene: Scene, replica_id: str, slot: int) -> None:
        self.slot = slot
        self.replica = Replica(key=KEY, board=scene.board, slot=slot, prepare=lambda _: None)
        self.path = scene.folder / f"r{slot}"
        self.address = f"unix:{self.path}"
        self.route = ReplicaRoute(replica_id, self.address, slot)
        self.control = Peer()
        self._board = scene.board

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self.replica.accept, str(self.path))
        await self.control.dial(self.address, CONTROLLER)

    async def initialize(self, definition: bytes, capacity: int, rank: int = -1, **settings: Any) -> Frame:
        message = Initialize(self.route.replica_id, *specs(definition, capacity, **settings), rank)
        self.control.send(Kind.CONTROL, 1, b"", encode(message))
        return await self.control.frames.get()

    def reconfigure(self, stream: int, capacity: int = 1, rank: int = -1, **settings: Any) -> None:
        """Tell it; the answer comes to ``control``."""
        _, deployment = specs(b"", capacity, **settings)
        self.control.send(Kind.CONTROL, stream, b"", encode(Reconfigure(deployment, rank)))

    async def reconfigured(self, stream: int, capacity: int = 1, rank: int = -1, **settings: Any) -> None:
        """The same, with the answer that it worked."""
        self.reconfigure(stream, capacity, rank, **settings)
        await self.control.next(Kind.RESPONSE, stream)

    def drain(self) -> None:
        self.control.send(Kind.CONTROL, 2, b"", encode(Drain()))

    @property
    def load(self) -> int:
        return self._board.cells[self.slot]

    async def stop(self) -> None:
        self._server.close()
        await self.replica.close()

    async def die(self) -> None:
        """What the kernel does for a killed process: its sockets are gone at once."""
        self._server.close()
        self.path.unlink(missing_ok=True)
        for channel in list(self.replica._channels):
            channel.abort()
        await self.replica.close()


class RecordedCall:
    """An ``Exchange`` whose one ending is a future."""

    def __init__(self, method: str = "work", *args: object) -> None:
        self.abandoned = False
        self.model_id = ""
        self.session_id = ""
        self.attempts = 0
        self.retryable = False
        self.may_go_ahead = True
        self.dispatched: list[str] = []
        self.link: ReplicaLink | None = None
        self.stream = 0
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._method = method
        self._args = args

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        assert not self.outcome.done()
        self.link, self.stream = link, stream
        self.dispatched.append(link.route.replica_id)
        assert link.channel is not None
        meta = encode(CallMeta(self._method, "id"))
        flags = link.pace.flag if self.may_go_ahead else 0
        link.channel.send(Kind.CALL, stream, meta, dump_value((self._args, {})), flags)

    def frame_received(self, frame: Frame) -> None:
        if frame.kind == Kind.RESPONSE:
            self.outcome.set_result(load_value(frame.payload))
        else:
            assert frame.kind == Kind.ERROR
            self.outcome.set_exception(RuntimeError(decode_error(frame.meta).message))

    def replica_lost(self, replica_id: str) -> None:
        self.outcome.set_exception(ConnectionError(replica_id))

    def refused(self, error: Exception) -> None:
        self.outcome.set_exception(error)


class Tap:
    """A wire between a caller and a replica that shows, and may cut, what passes."""

    def __init__(self, target: Path, path: Path) -> None:
        self._target = target
        self._path = path
        self.address = f"unix:{path}"
        self.to_replica: list[Kind] = []
        self.to_caller: list[Kind] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accepted, str(self._path))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replica_reader, replica_writer = await asyncio.open_unix_connection(str(self._target))
        self._writers += [writer, replica_writer]
        self._pumps += [
            asyncio.create_task(self._pump(reader, replica_writer, self.to_replica)),
            asyncio.create_task(self._pump(replica_reader, writer, self.to_caller)),
        ]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[Kind]) -> None:
        decoder = FrameDecoder()
        try:
            while data := await reader.read(65536):
                seen += [Kind(frame.kind) for frame in decoder.feed(data)]
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pumps)


class Scene:
    """A folder, a load board, and everything that was started, stopped again at the end."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._slots = itertools.count(1)
        self._gates: list[str] = []

    async def __aenter__(self) -> Self:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sv-")))
        self.board = LoadBoard()
        self._stack.callback(self.board.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        for name in self._gates:
            del GATES[name]

    def gate(self) -> tuple[str, Gate]:
        name = f"gate-{len(GATES)}-{id(self)}"
        self._gates.append(name)
        gate = GATES[name] = Gate()
        return name, gate

    async def bare_replica(self) -> RunningReplica:
        """A replica that listens and has not been initialized."""
        slot = next(self._slots)
        replica = RunningReplica(self, f"app#d#{slot}", slot)
        await replica.start()
        self._stack.push_async_callback(replica.stop)
        return replica

    async def replica(
        self, target: object = Gated, *args: object, capacity: int = 1, rank: int = -1, **settings: Any
    ) -> RunningReplica:
        """A replica of ``target(*args)``, ready; ``settings`` are fields of its ``DeploymentSpec``."""
        replica = await self.bare_replica()
        answer = await replica.initialize(dump_definition((target, args, {})), capacity, rank, **settings)
        assert answer.kind == Kind.RESPONSE, answer
        return replica

    async def gated_replica(self, capacity: int = 1, **settings: Any) -> tuple[RunningReplica, Gate]:
        name, gate = self.gate()
        return await self.replica(Gated, name, capacity=capacity, **settings), gate

    async def peer(self, replica: RunningReplica, sender: str = "caller") -> Peer:
        peer = await Peer().dial(replica.address, sender)
        self._stack.callback(peer.hang_up)
        return peer

    async def tap(self, replica: RunningReplica) -> Tap:
        tap = Tap(replica.path, self.folder / f"tap{next(self._slots)}")
        await tap.start()
        self._stack.push_async_callback(tap.stop)
        return tap

    def router(
        self, *routes: ReplicaRoute, capacity: int = 1, max_queued: int = -1, with_board: bool = True
    ) -> Router:
        board = self.board if with_board else None
        router = Router("app#d", connect=connect_unix, hello=hello("router"), board=board)
        router.update(deployment_route(*routes, capacity=capacity, max_queued=max_queued))
        self._stack.callback(router.close)
        return router


def deployment_route(
    *routes: ReplicaRoute, capacity: int = 1, max_queued: int = -1, unavailable: str = ""
) -> DeploymentRoute:
    return DeploymentRoute("app#d", routes, capacity, max_queued, unavailable)


def submit(router: Router, method: str = "work", *args: object) -> RecordedCall:
    call = RecordedCall(method, *args)
    router.submit(call)
    return call
