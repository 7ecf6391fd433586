"""Waiting for something that another process does, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

ResultT = TypeVar("ResultT")

_POLL_S = 0.01


def eventually(what: str, condition: Callable[[], ResultT], within: float = 10.0) -> ResultT:
    """Ask ``condition`` until its answer is true, and return that answer.

    Raises AssertionError, naming ``what`` and the last answer, when it has not become true after ``within`` seconds.
    """
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within:g} s (last: {answer!r})")
        time.sleep(_POLL_S)
