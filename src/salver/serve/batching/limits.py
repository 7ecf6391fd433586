"""How large a batch may be, how long it may wait, how many may run: checked when set, changed while serving."""

from __future__ import annotations

import operator
from math import isnan


class BatchLimits:
    """What ``serve.batch`` was given; the next batch that opens sees a change.

    Attributes:
        max_batch_size: weight at which a batch is full.
        batch_wait_timeout_s: how long the first call of a batch waits for others; ``inf`` is until it is full.
        max_concurrent_batches: how many batches are executed at the same time.

    Raises:
        TypeError, ValueError: the message names the limit, the value and what is allowed.
    """

    def __init__(self, max_batch_size: int, batch_wait_timeout_s: float, max_concurrent_batches: int) -> None:
        self.set_max_batch_size(max_batch_size)
        self.set_batch_wait_timeout_s(batch_wait_timeout_s)
        self.max_concurrent_batches = _count("max_concurrent_batches", max_concurrent_batches)

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        self.max_batch_size = _count("max_batch_size", new_max_batch_size)

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        self.batch_wait_timeout_s = _duration("batch_wait_timeout_s", new_batch_wait_timeout_s)

    def get_max_batch_size(self) -> int:
        return self.max_batch_size

    def get_batch_wait_timeout_s(self) -> float:
        return self.batch_wait_timeout_s


def _count(name: str, value: object) -> int:
    """Whole floats are taken, as they come from arithmetic and from JSON; so are numpy's integers."""
    problem = f"{name}={value!r}: must be an integer >= 1"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(problem)
    count = operator.index(value)  # pyright: ignore[reportArgumentType] - just seen
    if count < 1:
        raise ValueError(problem)
    return count


def _duration(name: str, value: object) -> float:
    problem = f"{name}={value!r}: must be a number of seconds >= 0"
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(problem)
    seconds = float(value)  # pyright: ignore[reportArgumentType] - just seen
    if isnan(seconds) or seconds < 0:
        raise ValueError(problem)
    return seconds
