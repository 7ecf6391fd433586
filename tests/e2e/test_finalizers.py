"""``__del__`` of a replica's object at its end: whatever it does, the process ends in time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.processes import is_alive
from harness.waiting import Patience, eventually
from salver import serve

TIMEOUT_S = 1.0
MARGIN_S = 5.0
"""What the controller adds before it kills."""
SLACK_S = 10.0


class Ending:
    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __call__(self) -> int:
        return os.getpid()


class SleepsForEver(Ending):
    def __del__(self) -> None:
        self.file.touch()
        threading.Event().wait()


class WaitsForEver(Ending):
    async def __del__(self) -> None:
        self.file.touch()
        await asyncio.Event().wait()


class BlocksTheLoop(Ending):
    async def __del__(self) -> None:
        self.file.touch()
        time.sleep(1e6)


class Raises(Ending):
    def __del__(self) -> None:
        self.file.touch()
        raise RuntimeError("not without a fight")


class Exits(Ending):
    async def __del__(self) -> None:
        self.file.touch()
        raise SystemExit(3)


@pytest.mark.parametrize("kind", [SleepsForEver, WaitsForEver, BlocksTheLoop, Raises, Exits])
def test_a_replica_ends_whatever_its_finalizer_does(instance_url: str, tmp_path: Path, kind: Any) -> None:
    file = tmp_path / "called"
    handle = serve.run(serve.deployment(graceful_shutdown_timeout_s=TIMEOUT_S)(kind).bind(str(file)))
    pid = handle.remote().result()
    by_itself = Patience(TIMEOUT_S + MARGIN_S)
    serve.delete("default", _blocking=False)
    within = TIMEOUT_S + MARGIN_S + SLACK_S if kind is BlocksTheLoop else by_itself  # nobody has to kill the others
    eventually("its process ends", lambda: not is_alive(pid), within)
    assert file.exists()
