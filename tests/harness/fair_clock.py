"""Time as it passes for those who share a crowded machine: what took long is told from what had to wait its turn."""

from __future__ import annotations

import threading
import time
from bisect import bisect
from typing import Self

from harness.waiting import crowding

_LOOK_S = 0.05


class FairClock:
    """Watches how crowded the machine is while its ``with`` block runs, and converts times of the monotonic clock.

    Its seconds are those of a machine that has a processor for everyone: on one that has, they are as long as any.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fair clock")
        self._looks: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._looks.append((time.monotonic(), 0.0))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def at(self, moment: float) -> float:
        """Seconds since the block began, for a moment within it."""
        place = bisect(self._looks, (moment, float("inf"))) - 1
        if place < 0:
            return 0.0
        looked, fair = self._looks[place]
        return fair + min(moment - looked, _LOOK_S)

    def between(self, earlier: float, later: float) -> float:
        return self.at(later) - self.at(earlier)

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            now = time.monotonic()
            before, fair = self._looks[-1]
            self._looks.append((now, fair + (now - before) / crowding()))
