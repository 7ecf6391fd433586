"""Many handle clients of one instance: each has a subscription, connections and calls of its own.

Run as a module (``harness.herd FOLDER CLIENTS``) it is one process of them, which ends with its standard input. It
prints ``subscribed EPOCH TIME`` when the last of its clients has heard of a new controller, and at the end what each
of them has done. Times are of the monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import msgspec
import uvloop
from msgspec import Struct

from harness.waiting import eventually
from salver.data.channel import Channel, connect_unix
from salver.data.current import CallSite, set_call_site
from salver.data.load_board import LoadBoard
from salver.data.routing.caller import Caller
from salver.engine.local.instance import Instance
from salver.serve.handle import DeploymentHandle
from salver.wire.messages import PROTOCOL_VERSION, Hello
from salver.wire.snapshot import Snapshot

_TESTS = Path(__file__).resolve().parents[1]
_CALL_EVERY_S = 0.5
_ENDED_WITHIN_S = 30.0


class ClientRecord(Struct, array_like=True):
    """What one client has done.

    Attributes:
        dials: when it began to connect to the controller.
        heard: when it first heard of each controller, by epoch.
        calls: of each call: when it was made, when it was answered, and what went wrong, empty for nothing.
    """

    dials: list[float] = []
    heard: dict[int, float] = {}
    calls: list[tuple[float, float, str]] = []


class Herd:
    """Clients that call ``Named`` twice a second each, while the ``with`` block runs.

    Args:
        folder: of the instance.
        processes, clients: how many, and how many each of them has.

    Attributes:
        records: of every client, when the block has ended.
    """

    def __init__(self, folder: Path, *, processes: int, clients: int) -> None:
        self._arguments = [str(folder), str(clients)]
        self._count = processes
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._epochs: list[list[int]] = []
        self.records: list[ClientRecord] = []

    def __enter__(self) -> Self:
        for _ in range(self._count):
            process = subprocess.Popen(
                [sys.executable, "-m", "harness.herd", *self._arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *filter(None, sys.path)])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._processes.append(process)
            self._epochs.append([])
            self._threads.append(threading.Thread(target=self._read, args=(process, self._epochs[-1])))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process, thread in zip(self._processes, self._threads, strict=True):
            process.wait(_ENDED_WITHIN_S)
            thread.join(_ENDED_WITHIN_S)

    def wait_subscribed(self, controllers: int, within: float) -> None:
        """Return when every client has heard of so many controllers."""
        eventually(
            f"every client has heard of {controllers} controllers",
            lambda: all(len(each) >= controllers for each in self._epochs),
            within,
        )

    def _read(self, process: subprocess.Popen[str], epochs: list[int]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if line.startswith("subscribed "):
                    epochs.append(int(line.split()[1]))
                else:
                    self.records += msgspec.json.decode(line, type=list[ClientRecord])


# --- one of its processes -------------------------------------------------------------------------------------


class _Client:
    """One of them, on the running loop."""

    def __init__(self, instance: Instance, number: int, subscribed: Any) -> None:
        self.record = ClientRecord()
        self._subscribed = subscribed
        self._address = instance.routing_address
        self._caller = Caller(
            connect=self._connect,
            controller_address=self._address,
            hello=Hello(PROTOCOL_VERSION, instance.key(), f"client {os.getpid()}-{number}"),
            board=LoadBoard(instance.board),
        )
        self._caller.on_snapshot(self._heard)
        self._caller.start()
        self._site = CallSite(asyncio.get_running_loop(), self._caller)

    async def _connect(self, address: str, make: Any) -> Channel:
        if address == self._address:
            self.record.dials.append(time.monotonic())
        return await connect_unix(address, make)

    def _heard(self, snapshot: Snapshot) -> None:
        if snapshot.epoch not in self.record.heard:
            self.record.heard[snapshot.epoch] = time.monotonic()
            self._subscribed(snapshot.epoch)

    async def call_again_and_again(self, handle: DeploymentHandle[Any], ending: asyncio.Event) -> None:
        while not ending.is_set():
            try:
                await asyncio.wait_for(ending.wait(), _CALL_EVERY_S * 2 * random.random())
            except TimeoutError:
                began = time.monotonic()
                problem = ""
                try:
                    set_call_site(self._site)
                    await handle.remote()
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                self.record.calls.append((began, time.monotonic(), problem))

    async def stop(self) -> None:
        set_call_site(None)
        await self._caller.stop()


async def _main(folder: Path, count: int) -> None:
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, ending.set)
    heard: dict[int, int] = {}

    def subscribed(epoch: int) -> None:
        heard[epoch] = heard.get(epoch, 0) + 1
        if heard[epoch] == count:
            print("subscribed", epoch, flush=True)

    instance = Instance(folder)
    clients = [_Client(instance, number, subscribed) for number in range(count)]
    handle: DeploymentHandle[Any] = DeploymentHandle("Named", "default").named
    await asyncio.gather(*(client.call_again_and_again(handle, ending) for client in clients))
    for client in clients:
        await client.stop()
    print(msgspec.json.encode([client.record for client in clients]).decode(), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
