"""For the tests of handles: the same applications in processes of their own and in local testing mode."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from salver import serve
from salver.serve.deployment import Application
from salver.serve.handle import DeploymentHandle

WITHIN_S = 30.0

Run = Callable[[Application], DeploymentHandle[Any]]


@pytest.fixture(params=["processes", "local"])
def run(request: pytest.FixtureRequest) -> Generator[Run]:
    """``run(application)``: its handle; the test runs once with real replicas and once in local testing mode."""
    if request.param == "local":
        yield lambda application: serve.run(application, _local_testing_mode=True)
    else:
        serve.start(http_options={"port": 0})
        yield serve.run
    serve.shutdown()
