"""A control server for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from salver.controller.client import ControlClient

from .control_scene import Server, constructing


@pytest.fixture
def server() -> Generator[Server]:
    constructing.clear()
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.stop()


@pytest.fixture
def client(server: Server) -> ControlClient:
    return ControlClient(server.path)
