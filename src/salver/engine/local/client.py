"""The controller's side of the supervisor: an ``Engine`` over the inherited socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from salver.engine.interface import EngineEvent, ReplicaProcess
from salver.engine.local.link import (
    DumpStack,
    KillProcess,
    ListProcesses,
    MessageReader,
    ProcessList,
    StartProcess,
    ToController,
    ToSupervisor,
    encode_message,
)
from salver.errors import StartupError
from salver.records import Capacity

logger = logging.getLogger("salver.engine")

_STACK_WITHIN_S = 1.0
_OTHER_STACK_WITHIN_S = 0.1
_OTHER_STACK_TRIES = 3
_NO_CAPACITY = Capacity()


class LocalEngine(asyncio.Protocol):
    """Asks the supervisor to fork and kill.

    Args:
        link: the inherited end of the socket pair.
        folder: the instance's folder, where stacks are dumped.
        on_lost: called when the supervisor has ended the conversation.
        capacity: what this machine has for replicas.
    """

    def __init__(
        self, link: socket.socket, folder: Path, on_lost: Callable[[], None], capacity: Capacity = _NO_CAPACITY
    ) -> None:
        self._capacity = capacity
        self._link = link
        self._folder = folder
        self._on_lost = on_lost
        self._reader: MessageReader[ToController] = MessageReader(ToController)
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[object] | None = None
        self._on_event: Callable[[EngineEvent], None] | None = None
        self._unsent: list[bytes] = []
        self._lists: list[asyncio.Future[ProcessList]] = []
        self._closed = False

    # --- Engine -----------------------------------------------------------------------------------------

    def open(self, on_event: Callable[[EngineEvent], None]) -> None:
        self._on_event = on_event
        loop = asyncio.get_running_loop()
        self._opening = loop.create_task(loop.create_unix_connection(lambda: self, sock=self._link))

    async def processes(self) -> list[ReplicaProcess]:
        return list((await self._list()).processes)

    def capacity(self) -> Capacity:
        return self._capacity

    async def proxy_pids(self) -> list[int]:
        try:
            return list((await self._list()).proxy_pids)
        except StartupError:  # the instance ends: no proxy outlives the supervisor
            return []

    async def _list(self) -> ProcessList:
        answer: asyncio.Future[ProcessList] = asyncio.get_running_loop().create_future()
        self._lists.append(answer)
        self._send(ListProcesses())
        return await answer

    def start(self, process: ReplicaProcess) -> None:
        self._send(StartProcess(process))

    def kill(self, replica_id: str) -> None:
        self._send(KillProcess(replica_id))

    async def where(self, replica_id: str) -> str:
        main = await self._stack(DumpStack(replica_id), _STACK_WITHIN_S)
        for _ in range(_OTHER_STACK_TRIES if main else 0):
            other = await self._stack(DumpStack(replica_id, runs=True), _OTHER_STACK_WITHIN_S)
            if other:
                return f"{main}Another thread runs:\n{other}"
        return main

    async def _stack(self, message: DumpStack, within_s: float) -> str:
        path = stack_file(self._folder, message.replica_id)
        try:
            before = path.stat().st_size
            self._send(message)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + within_s
            text = ""
            while loop.time() < deadline:  # the writer is a signal handler: it cannot tell us when it is done
                await asyncio.sleep(0.02)
                last, text = text, path.read_bytes()[before:].decode(errors="replace")
                if text and text == last:
                    return text
        except OSError:  # it goes with its process
            pass
        return ""

    async def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        for data in self._unsent:
            self._transport.write(data)
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, ProcessList):
                for answer in self._lists:
                    if not answer.done():
                        answer.set_result(message)
                self._lists.clear()
            elif self._on_event is not None:
                self._on_event(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """The supervisor let go of this controller: a successor takes over from what is saved and what runs."""
        self._transport = None
        for answer in self._lists:
            if not answer.done():
                answer.set_exception(StartupError("the supervisor has let go of this controller"))
        if not self._closed:
            self._on_lost()

    def _send(self, message: ToSupervisor) -> None:
        data = encode_message(message)
        if self._transport is not None:
            self._transport.write(data)
        elif not self._closed:
            self._unsent.append(data)


def stack_file(folder: Path, replica_id: str) -> Path:
    """Where a replica's faulthandler writes."""
    return folder / f"stack-{replica_id.rsplit('#', 1)[-1]}.txt"
