"""A wall clock that a test may set, for processes that it starts; the monotonic clock stays true, as in life.

It is the library of the package libfaketime, preloaded into them: it adds to what the kernel says whatever is in a
file at that moment. The machine's own clock is never touched.
"""

from __future__ import annotations

import platform
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

needs_wall_clock = pytest.mark.skipif(platform.machine() != "x86_64", reason="the package has a library for x86-64")

_SHARED_MEMORY = Path("/dev/shm")


class WallClock:
    """The clock of all processes that are started with its ``environment``.

    Args:
        folder: for its file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "wall-clock"
        self._ahead_s = 0
        self._write()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process and all that it starts."""
        package = find_spec("libfaketime")
        assert package is not None, "libfaketime is among the test dependencies"
        assert package.origin is not None
        return {
            "LD_PRELOAD": str(Path(package.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def jump(self, seconds: int) -> None:
        """Set it by so much, forward or back, for everybody at once."""
        self._ahead_s += seconds
        self._write()

    def now(self) -> float:
        """What those processes read."""
        return time.time() + self._ahead_s

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._ahead_s:+d}\n")
        new.rename(self._file)


def forget_wall_clock(pid: int) -> None:
    """Remove what the library has left of a process that was killed."""
    for path in _SHARED_MEMORY.glob(f"*faketime_*_{pid}"):
        path.unlink(missing_ok=True)
