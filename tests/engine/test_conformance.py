"""The same suite on every engine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from salver.data.load_board import LoadBoard
from salver.engine.memory import MemoryEngine, MemoryNetwork
from salver.telemetry.metrics import registry

from .conformance import CHECKS, check_engine, emptied
from .world import World


def test_memory_engine() -> None:
    @asynccontextmanager
    async def make_engine() -> AsyncIterator[World]:
        network, board, key = MemoryNetwork(), LoadBoard(), b"k" * 32
        world = World(MemoryEngine(network, board, key, os.getpid()), network.connect, key, registry)
        world.open()
        async with emptied(world):
            yield world
        await world.engine.close()
        board.close()

    assert asyncio.run(check_engine(make_engine)) == len(CHECKS)


def test_local_engine(tmp_path: Path) -> None:
    """In a real supervisor, over its real link."""
    result = tmp_path / "result"
    host = [sys.executable, "-m", "engine.local_engine_host", str(result)]
    tests = Path(__file__).parents[1]
    done = subprocess.run(host, cwd=tests, timeout=100, capture_output=True, text=True)
    assert result.read_text() == f"passed {len(CHECKS)}", done.stderr
    assert done.returncode == 0
