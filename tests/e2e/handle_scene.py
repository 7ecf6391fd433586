"""For the tests of handles: the same applications in processes of their own and in local testing mode."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

from e2e.warm_instance import WarmInstance
from salver import serve
from salver.serve.deployment import Application
from salver.serve.handle import DeploymentHandle

WITHIN_S = 30.0

Run = Callable[[Application], DeploymentHandle[Any]]


@pytest.fixture
def run(handle_instance: WarmInstance | None) -> Generator[Run]:
    """``run(application)``: its handle; the test runs once with real replicas and once in local testing mode."""
    if handle_instance is None:
        yield lambda application: serve.run(application, _local_testing_mode=True)
        serve.shutdown()
    else:
        yield serve.run
        handle_instance.empty()


only_in_processes = pytest.mark.parametrize("handle_instance", ["processes"], indirect=True)
"""For tests of what cannot happen in one process."""
