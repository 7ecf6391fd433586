"""The engine in one process: replicas are objects on the caller's event loop, channels are pairs of buffers.

For tests, the users' and ours. The same replica, router, frames and controller as everywhere else; what it does not
have is what only processes give: isolation, user code that blocks without blocking everything, a kill that nothing
survives. A replica that is killed is cancelled and cleans up; code that will not be cancelled goes on, unheard.

Context variables are no shared memory either: what arrives is handled in a context of the connection's own, as in a
process of its own, and not in that of whoever sent it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

import msgspec

from salver.data.channel import Channel
from salver.data.load_board import LoadBoard
from salver.data.replica.replica import Replica
from salver.engine.interface import EngineEvent, Exited, ReplicaProcess, Started
from salver.records import Capacity, CodeContext

logger = logging.getLogger("salver.engine")

UNLIMITED = Capacity(num_cpus=1e6, gpus=tuple(range(1024)), memory=1e18)

Accept = Callable[[], asyncio.Protocol]

_CLEANED_UP_WITHIN_S = 5.0
"""How long a replica that is killed may take to clean up, before it is given up as gone."""


class MemoryNetwork:
    """Addresses of one process: ``memory:name`` reaches whoever listens under it."""

    def __init__(self) -> None:
        self._listening: dict[str, Accept] = {}

    def listen(self, address: str, accept: Accept) -> None:
        self._listening[address] = accept

    def close(self, address: str) -> None:
        self._listening.pop(address, None)

    async def connect(self, address: str, factory: Callable[[], Channel]) -> Channel:
        """``Connect`` for memory addresses."""
        accept = self._listening.get(address)
        if accept is None:
            raise ConnectionRefusedError(f"nobody listens at {address}")
        near, far = factory(), accept()
        here, there = _MemoryTransport(far), _MemoryTransport(near)
        here.other, there.other = there, here
        far.connection_made(there)
        near.connection_made(here)
        return near


class _MemoryTransport(asyncio.Transport):
    """One direction of a connection; what is written arrives in a later turn of the loop, in order."""

    def __init__(self, receiver: asyncio.Protocol) -> None:
        super().__init__()
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._closing = False
        self.other: _MemoryTransport | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            self._loop.call_soon(self._receiver.data_received, bytes(data), context=self._context)

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits: the receiver has it a turn later."""
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """End both directions, after what has been written."""
        other = self.other
        if self._closing or other is None:
            return
        self._closing = other._closing = True
        for each in (self, other):
            self._loop.call_soon(each._receiver.connection_lost, None, context=each._context)

    def abort(self) -> None:
        self.close()


class _Life:
    """One replica that runs, from its start until it has cleaned up."""

    def __init__(self, process: ReplicaProcess, replica: Replica, stop_listening: Callable[[], None]) -> None:
        self.process = process
        self.replica = replica
        self.killed = asyncio.Event()
        self.started_at = time.monotonic()
        self._stop_listening = stop_listening

    async def live(self) -> str:
        """Until the replica has drained, or is killed, and has cleaned up; the cause of its end."""
        killed = asyncio.create_task(self.killed.wait())
        drained = asyncio.create_task(self.replica.drained.wait())
        await asyncio.wait({killed, drained}, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        self._stop_listening()
        closing = asyncio.create_task(self.replica.close())
        await asyncio.wait({killed, closing}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({closing}, timeout=_CLEANED_UP_WITHIN_S)
        cause = "was killed" if killed.done() else "exited with code 0"
        killed.cancel()
        self._look_at(closing)
        return cause

    def _look_at(self, closing: asyncio.Task[None]) -> None:
        if not closing.done():
            closing.cancel()
            logger.warning("code of replica %s goes on although it was cancelled", self.process.replica_id)
        elif (error := closing.exception()) is not None:
            logger.error("replica %s did not clean up", self.process.replica_id, exc_info=error)


class MemoryEngine:
    """An ``Engine`` whose processes are objects.

    Args:
        network: where replicas listen.
        board: the load board that they write.
        key: session key that their callers must hold.
        pid: shown as theirs: that of this process.
    """

    def __init__(self, network: MemoryNetwork, board: LoadBoard, key: bytes, pid: int) -> None:
        self._network = network
        self._board = board
        self._key = key
        self._pid = pid
        self._on_event: Callable[[EngineEvent], None] | None = None
        self._running: dict[str, _Life] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, on_event: Callable[[EngineEvent], None]) -> None:
        self._on_event = on_event

    async def processes(self) -> list[ReplicaProcess]:
        now = time.monotonic()
        return [msgspec.structs.replace(life.process, age_s=now - life.started_at) for life in self._running.values()]

    def capacity(self) -> Capacity:
        """Everything: reservations are for processes."""
        return UNLIMITED

    async def proxy_pids(self) -> list[int]:
        return []

    def start(self, process: ReplicaProcess) -> None:
        life = self._running.get(process.replica_id)
        if life is None:
            life = self._running[process.replica_id] = self._new_life(process)
            task = asyncio.get_running_loop().create_task(self._live(life), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._tell(Started(life.process))

    def _new_life(self, process: ReplicaProcess) -> _Life:
        replica = Replica(key=self._key, board=self._board, slot=process.slot, prepare=_nothing_to_prepare)
        address = f"memory:{process.replica_id}"
        self._network.listen(address, replica.accept)
        started = msgspec.structs.replace(process, pid=self._pid, address=address)
        return _Life(started, replica, lambda: self._network.close(address))

    async def _live(self, life: _Life) -> None:
        cause = await life.live()
        del self._running[life.process.replica_id]
        self._tell(Exited(life.process.replica_id, cause))

    def kill(self, replica_id: str) -> None:
        life = self._running.get(replica_id)
        if life is None:
            self._tell(Exited(replica_id, "was not running"))
        else:
            life.killed.set()

    async def where(self, replica_id: str) -> str:
        return ""

    async def close(self) -> None:
        self._on_event = None
        for replica_id in list(self._running):
            self.kill(replica_id)
        await asyncio.gather(*self._tasks)

    def _tell(self, event: EngineEvent) -> None:
        """Not from within the call that caused it: its caller is in the middle of something."""
        if self._on_event is not None:
            asyncio.get_running_loop().call_soon(self._deliver, event)

    def _deliver(self, event: EngineEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)


def _nothing_to_prepare(_code: CodeContext) -> None:
    """The user's modules are imported in this process already."""
