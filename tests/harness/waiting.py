"""Waiting for something that another process does, with a deadline.

Deadlines are in seconds of a machine that has a processor for everyone who wants one. While more want to run than
can, a second counts for less: what is promised within a second is not late because others were working, and on a
machine that is not crowded a promise is what it says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ResultT = TypeVar("ResultT")

_POLL_S = 0.01
_MOST_CROWDED = 6.0
"""However crowded it is, a wait ends before the time limit of tests."""
_LOAD = Path("/proc/loadavg")
_PROCESSORS = len(os.sched_getaffinity(0))


def crowding() -> float:
    """How many want each processor now, 1 when there is one for everyone; at most ``_MOST_CROWDED``."""
    runnable = int(_LOAD.read_text().split()[3].partition("/")[0])
    return min(max(1.0, runnable / _PROCESSORS), _MOST_CROWDED)


class Patience:
    """A deadline that several waits may share: ``seconds`` from now, which last longer where it is crowded.

    It takes the crowd at each look at ``left`` for that of the time since the last.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._left = seconds
        self._at = time.monotonic()

    def left(self) -> float:
        """Seconds; 0 when it is over."""
        now = time.monotonic()
        self._left -= (now - self._at) / crowding()
        self._at = now
        return max(0.0, self._left)


def let_pass(seconds: float) -> None:
    """Return after so long, for something that is promised by then and cannot be looked at."""
    deadline = Patience(seconds)
    while deadline.left():
        time.sleep(_POLL_S)


def patience(within: float | Patience) -> Patience:
    return within if isinstance(within, Patience) else Patience(within)


def eventually(what: str, condition: Callable[[], ResultT], within: float | Patience = 10.0) -> ResultT:
    """Ask ``condition`` until its answer is true, and return that answer.

    Raises AssertionError, naming ``what`` and the last answer, when it has not become true after ``within`` seconds
    (of a machine that is not crowded).
    """
    began = time.monotonic()
    deadline = patience(within)
    while True:
        answer = condition()
        if answer:
            return answer
        if not deadline.left():
            waited = f"{deadline.seconds:g} s ({time.monotonic() - began:.1f} s on the clock)"
            raise AssertionError(f"{what}: not within {waited} (last: {answer!r})")
        time.sleep(_POLL_S)
