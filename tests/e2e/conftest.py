"""Instances whose driver is the test itself."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from salver import serve


@pytest.fixture
def instance_url() -> Generator[str]:
    """An instance of this process's own, without applications; the URL of its HTTP ingress."""
    serve.start(http_options={"port": 0})
    yield serve.status().instance.url
    serve.shutdown()
