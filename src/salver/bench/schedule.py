"""When requests are due: decided beforehand, without looking at the server.

*Poisson* arrivals are those of many clients that do not know of each other: gaps are exponential, so requests come
in bursts and lulls, and queues form long before the server is at its limit. *Uniform* ones are evenly spaced: the
easiest load that a rate can be. A schedule is made one request at a time. So one of any length needs no memory, and
neither do requests that are due and must wait: they are what has not been taken yet.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, Protocol

Arrivals = Literal["poisson", "uniform"]


def offsets(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start at which requests are due, ascending, for ever.

    Args:
        rate: requests per second, on average over the long run.
        seed: of the Poisson process; the same one gives the same schedule.
    """
    if arrivals == "uniform":
        number = 0
        while True:
            yield number / rate
            number += 1
    chance = random.Random(seed)  # noqa: S311 - arrivals are no secret
    at = 0.0
    while True:
        at += chance.expovariate(rate)
        yield at


class Schedule(Protocol):
    """Requests in the order in which they are due; times are of one clock, in nanoseconds."""

    def next_due(self, now: int) -> int | None:
        """When the next request is or was due; None when there is none any more."""
        ...

    def take(self) -> None:
        """The next request is somebody's now."""
        ...


class OpenLoop:
    """Requests at ``rate`` from ``start`` to ``end``, whatever becomes of them."""

    def __init__(self, arrivals: Arrivals, rate: float, seed: int, *, start: int, end: int) -> None:
        self._offsets = offsets(arrivals, rate, seed)
        self._start = start
        self._end = end
        self._next: int | None = None
        self.take()

    def next_due(self, now: int) -> int | None:
        return self._next

    def take(self) -> None:
        due = self._start + int(next(self._offsets) * 1e9)
        self._next = due if due < self._end else None


class ClosedLoop:
    """A request whenever somebody can send one, from ``start`` to ``end``: as fast as the server answers."""

    def __init__(self, *, start: int, end: int) -> None:
        self._start = start
        self._end = end

    def next_due(self, now: int) -> int | None:
        return max(now, self._start) if now < self._end else None

    def take(self) -> None:
        pass
