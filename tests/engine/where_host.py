"""Asks an engine where replicas that do not answer are. Run as a module: ``engine.where_host RESULT``."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

from salver.data.channel import connect_unix
from salver.engine.interface import Exited
from salver.engine.local.client import LocalEngine
from salver.engine.local.instance import Instance

from .conformance_calls import call
from .local_engine_host import main
from .world import WITHIN_S, World

QUICK_S = 10.0
"""Where a stack is not to be had this is known after 1 s; the rest is for a loaded test machine."""


class Stuck:
    async def native_on_the_loop(self) -> None:
        sum(range(10**12))  # one call of native code, which never lets go of the GIL

    def native_in_a_thread(self) -> None:
        sum(range(10**12))

    async def well(self) -> None:
        pass


async def check(instance: Instance, key: bytes, link: socket.socket) -> None:
    world = World(LocalEngine(link, instance.folder, on_lost=lambda: None), connect_unix, key)
    world.open()
    on_loop = await where(world, "aaaa", "native_on_the_loop")
    assert "Stack" in on_loop.splitlines()[0], on_loop
    assert "in native_on_the_loop" in on_loop.splitlines()[1], on_loop
    assert "Another" not in on_loop, on_loop

    in_thread = await where(world, "bbbb", "native_in_a_thread")
    main_thread, _, other = in_thread.partition("Another thread runs:\n")
    assert "in _replica" in main_thread or "in run" in main_thread, in_thread
    assert "in native_in_a_thread" in other.splitlines()[1], in_thread

    assert await where(world, "cccc", "well", stop=True) == ""
    assert await world.engine.where("app#Probe#none") == ""
    await world.engine.close()


async def where(world: World, suffix: str, method: str, *, stop: bool = False) -> str:
    """Where a replica is that runs ``method``, as the engine says; then it is killed."""
    async with world.serving(suffix, Stuck) as (process, caller):
        call(caller, 1, method)
        if stop:
            os.kill(process.pid, signal.SIGSTOP)
        else:
            await computing(process.pid)
        before = time.monotonic()
        text = await world.engine.where(process.replica_id)
        assert time.monotonic() - before < QUICK_S
        world.engine.kill(process.replica_id)
        assert await world.next_event() == Exited(process.replica_id, "killed by SIGKILL", exit_code=-9)
    return text


async def computing(pid: int) -> None:
    """Wait until it has computed for a while."""
    async with asyncio.timeout(WITHIN_S):
        start = processor_ticks(pid)
        while processor_ticks(pid) < start + 30:
            await asyncio.sleep(0.01)


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main(Path(sys.argv[1]), check)
