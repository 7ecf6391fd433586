"""Instances whose driver is the test itself."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import uvloop

from e2e.warm_instance import WarmInstance


@pytest.fixture(scope="session", autouse=True)
def first_event_loop() -> None:
    """Have libuv make the pipe that it keeps for as long as the process lives: no test leaks it then."""
    uvloop.new_event_loop().close()


@pytest.fixture(scope="module")
def warm_instance(runtime_folder: Path) -> Generator[WarmInstance]:
    """One instance for the tests of a module."""
    with WarmInstance() as instance:
        yield instance


@pytest.fixture
def instance_url(warm_instance: WarmInstance) -> Generator[str]:
    """The module's instance, without applications before and after the test; the URL of its HTTP ingress."""
    yield warm_instance.url
    warm_instance.empty()


@pytest.fixture(scope="module", params=["processes", "local"])
def handle_instance(request: pytest.FixtureRequest, runtime_folder: Path) -> Generator[WarmInstance | None]:
    """One instance for the tests of a module; None, and none, for those in local testing mode."""
    if request.param == "local":
        yield None
        return
    with WarmInstance() as instance:
        yield instance
