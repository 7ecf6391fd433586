"""Instances whose driver is the test itself."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import uvloop

from salver import serve


@pytest.fixture(scope="session", autouse=True)
def first_event_loop() -> None:
    """Have libuv make the pipe that it keeps for as long as the process lives: no test leaks it then."""
    uvloop.new_event_loop().close()


@pytest.fixture
def instance_url() -> Generator[str]:
    """An instance of this process's own, without applications; the URL of its HTTP ingress."""
    serve.start(http_options={"port": 0})
    yield serve.status().instance.url
    serve.shutdown()
