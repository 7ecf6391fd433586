"""The engine in one process: replicas are objects on the caller's event loop, channels are pairs of buffers.

For tests, the users' and ours. The same replica, router, frames and controller as everywhere else; what it does not
have is what only processes give: isolation, and user code that blocks without blocking everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from salver.data.channel import Channel
from salver.data.load_board import LoadBoard
from salver.data.replica import Replica
from salver.engine.interface import EngineEvent, Exited, ReplicaProcess, Started
from salver.records import CodeContext

Accept = Callable[[], asyncio.Protocol]


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
        self._closing = False
        self.other: _MemoryTransport | None = None

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            self._loop.call_soon(self._receiver.data_received, bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """End both directions, after what has been written."""
        other = self.other
        if self._closing or other is None:
            return
        self._closing = other._closing = True
        self._loop.call_soon(self._receiver.connection_lost, None)
        self._loop.call_soon(other._receiver.connection_lost, None)

    def abort(self) -> None:
        self.close()


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
        self._running: dict[str, tuple[ReplicaProcess, Replica]] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}

    def open(self, on_event: Callable[[EngineEvent], None]) -> None:
        self._on_event = on_event

    async def processes(self) -> list[ReplicaProcess]:
        return [process for process, _ in self._running.values()]

    async def proxy_pids(self) -> list[int]:
        return []

    def start(self, process: ReplicaProcess) -> None:
        known = self._running.get(process.replica_id)
        if known is None:
            replica = Replica(key=self._key, board=self._board, slot=process.slot, prepare=_nothing_to_prepare)
            address = f"memory:{process.replica_id}"
            started = ReplicaProcess(
                process.replica_id, process.deployment, process.version, process.slot, self._pid, address
            )
            known = self._running[process.replica_id] = (started, replica)
            self._network.listen(address, replica.accept)
            life = asyncio.get_running_loop().create_task(self._live(started, replica))
            self._lives[process.replica_id] = life
        self._tell(Started(known[0]))

    async def _live(self, process: ReplicaProcess, replica: Replica) -> None:
        """From start to the end of its drain, or of this task."""
        cause = "was killed"
        try:
            await replica.drained.wait()
            cause = "exited with code 0"
        except asyncio.CancelledError:
            pass
        finally:
            self._network.close(process.address)
            await replica.close()
            del self._running[process.replica_id]
            del self._lives[process.replica_id]
            self._tell(Exited(process.replica_id, cause))

    def kill(self, replica_id: str) -> None:
        life = self._lives.get(replica_id)
        if life is None:
            self._tell(Exited(replica_id, "was not running"))
        else:
            life.cancel()

    async def where(self, replica_id: str) -> str:
        return ""

    async def close(self) -> None:
        self._on_event = None
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _tell(self, event: EngineEvent) -> None:
        """Not from within the call that caused it: its caller is in the middle of something."""
        if self._on_event is not None:
            asyncio.get_running_loop().call_soon(self._on_event, event)


def _nothing_to_prepare(_code: CodeContext) -> None:
    """The user's modules are imported in this process already."""
