"""What only the engine in memory has to think of: replicas that no kill can end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from salver.data.load_board import LoadBoard
from salver.engine import memory
from salver.engine.interface import Exited
from salver.engine.memory import MemoryEngine, MemoryNetwork

from .conformance_calls import ask, call
from .world import World


class Stubborn:
    """Will not be cancelled, until it is let go."""

    let_go = asyncio.Event()

    async def hold(self) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                pass

    async def echo(self, value: object) -> object:
        return value


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    network, board, key = MemoryNetwork(), LoadBoard(), b"k" * 32
    world = World(MemoryEngine(network, board, key, os.getpid()), network.connect, key)
    world.open()
    yield world
    await world.engine.close()
    board.close()


def test_code_that_ignores_its_cancellation_does_not_keep_its_replica(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "_CLEANED_UP_WITHIN_S", 0.1)
    caplog.set_level(logging.WARNING, "salver.engine")

    async def test() -> None:
        Stubborn.let_go.clear()
        async with memory_world() as world:
            async with world.serving("aaaa", Stubborn) as (process, caller):
                call(caller, 1, "hold")
                assert await ask(caller, 2, "echo", 1) == 1
                world.engine.kill(process.replica_id)
                world.engine.kill(process.replica_id)
                assert await world.next_event() == Exited(process.replica_id, "was killed")
                assert await world.engine.processes() == []
            Stubborn.let_go.set()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    asyncio.run(test())
    assert "code of replica app#Probe#aaaa goes on although it was cancelled" in caplog.text


def test_closing_the_engine_ends_everything_without_a_word() -> None:
    async def test() -> None:
        async with memory_world() as world:
            processes = [await world.start(f"b{number}", number) for number in range(3)]
            await world.engine.close()
            assert await world.engine.processes() == []
            assert not world.events
            with pytest.raises(ConnectionRefusedError):
                await world.connect(processes[0].address, lambda: None)  # pyright: ignore[reportArgumentType]

    asyncio.run(test())
