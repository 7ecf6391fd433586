"""Whether everything that this process serves is to run inside it, whatever its code says: for test suites and CI."""

from __future__ import annotations

import os

_VARIABLES = ("SALVER_FORCE_LOCAL_TESTING_MODE", "RAY_SERVE_FORCE_LOCAL_TESTING_MODE")


def local_testing_is_forced() -> bool:
    """Whether ``SALVER_FORCE_LOCAL_TESTING_MODE``, or Ray Serve's variable of that kind, is 1."""
    return any(os.environ.get(name) == "1" for name in _VARIABLES)
