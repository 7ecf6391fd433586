"""When a replica should be replaced although it works: it has served enough, or takes too much memory.

Replicas that started together must not leave together, so each takes its own 90 to 110 % of ``max_requests``. Memory
is looked at once a second, by a timer that only those replicas have which are limited.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

_JITTER = 0.1
_MEASURE_EVERY_S = 1.0
_MIB = 1024 * 1024


class Wear:
    """The limits of one replica.

    Args:
        report: told once that the replica should be replaced; why, for people.
        memory: the process's, in bytes; 0 where that is not known, or is not the replica's alone.

    Attributes:
        served_at_most: requests until it should be replaced; None for any number.
    """

    def __init__(self, report: Callable[[str], None], memory: Callable[[], int]) -> None:
        self._report = report
        self._memory = memory
        self._share = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - to spread, not to hide
        self._max_rss_bytes: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._served = 0
        self._reported = False
        self.served_at_most: int | None = None

    def limit(self, max_requests: int | None, max_rss_bytes: int | None) -> None:
        """From now on these; None is no limit. Requests count from the first limit on."""
        self.served_at_most = None if max_requests is None else max(1, round(max_requests * self._share))
        self._max_rss_bytes = max_rss_bytes
        self.close()
        if max_rss_bytes is not None and not self._reported:
            self._timer = asyncio.get_running_loop().call_later(_MEASURE_EVERY_S, self._look_at_memory)

    def request_ended(self) -> None:
        """One more was served; called only while ``served_at_most`` is a number."""
        self._served += 1
        if self.served_at_most is not None and self._served >= self.served_at_most:
            self.tell(f"requests served: {self._served} (max_requests)")

    def tell(self, reason: str) -> None:
        """The replica should be replaced; only the first reason counts."""
        if not self._reported:
            self._reported = True
            self.close()
            self._report(reason)

    def close(self) -> None:
        """Measure no more, until the next limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_memory(self) -> None:
        self._timer = None
        if self._max_rss_bytes is None:
            return
        used = self._memory()
        if used > self._max_rss_bytes:
            most = self._max_rss_bytes / _MIB
            self.tell(f"its memory of {used / _MIB:.0f} MiB is more than the {most:.0f} MiB of max_rss")
        else:
            self._timer = asyncio.get_running_loop().call_later(_MEASURE_EVERY_S, self._look_at_memory)
