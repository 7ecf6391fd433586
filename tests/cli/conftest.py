"""Commands that start an instance without an application."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from harness.instance import SalverRun


@pytest.fixture
def salver_start(tmp_path: Path) -> Generator[Callable[..., SalverRun]]:
    """``salver_start("--name", "x")``: a ``salver start`` on any port, ready; ``env``: more variables."""
    runs: list[SalverRun] = []

    def start(*argv: str, env: dict[str, str] | None = None) -> SalverRun:
        run = SalverRun.launch("salver", "start", "--port", "0", *argv, cwd=tmp_path, env=env)
        runs.append(run)
        run.wait_ready()
        return run

    yield start
    for run in reversed(runs):
        run.stop()
