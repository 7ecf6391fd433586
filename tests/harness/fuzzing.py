"""How long the fuzzers run: ``SALVER_FUZZ=20000 python -m pytest tests/data/test_http_differential.py``.

Without the variable they try the same few examples in each run; with it, that many random ones.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("SALVER_FUZZ", "0"))


def times(usual: int) -> int:
    """So many, or as many as the environment variable SALVER_FUZZ says."""
    return _TIMES or usual


def examples(usual: int) -> Any:
    """Try so many examples, or as many as the environment variable SALVER_FUZZ says, which also lifts time limits."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    limit = pytest.mark.timeout(0 if _TIMES else 120)
    chosen = settings(max_examples=times(usual), deadline=None, suppress_health_check=quiet)
    return lambda test: limit(chosen(test))
