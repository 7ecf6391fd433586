"""``world``: every test of this folder runs once in local testing mode and once with real processes."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import uvloop

from salver import serve

from .world import Local, Processes, World


@pytest.fixture(scope="module", params=[Local, Processes], ids=lambda kind: kind.kind)
def shared_world(request: pytest.FixtureRequest) -> Generator[World]:
    """One instance for all tests of a module."""
    uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good
    try:
        world: World = request.param()
        yield world
    finally:
        serve.shutdown()


@pytest.fixture
def world(shared_world: World) -> Generator[World]:
    """It, without applications, before and after."""
    yield shared_world
    shared_world.empty()
