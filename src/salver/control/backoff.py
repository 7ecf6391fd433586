"""When a replica that failed may be replaced.

The first failure of something that worked is replaced at once: most are alone. From then on, or when it has
never worked, the wait doubles with every failure, so that a crash loop costs nothing and a short outage
little. The jitter keeps deployments that failed together from starting together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
CALM_S = 10.0
"""Failures further apart than this much good running are not consecutive."""

_MAX_DOUBLINGS = 10  # 0.1 s doubled ten times is beyond MAX_DELAY_S; more would only overflow


class Backoff:
    """Counts consecutive failures.

    Args:
        jitter: a number from 0 to 1; a wait is between half of its full length and all of it.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self.failures = 0
        self.last_failure_at = -math.inf
        self.not_before = -math.inf

    def fail(self, now: float, *, worked_before: bool) -> None:
        """One more failure; ``worked_before`` forgives the first."""
        self.failures += 1
        self.last_failure_at = now
        if self.failures == 1 and worked_before:
            return
        full_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(self.failures - 1, _MAX_DOUBLINGS))
        self.not_before = max(self.not_before, now + full_s * (0.5 + self._jitter() / 2))

    def reset(self) -> None:
        """It works again, or the user wants a fresh attempt."""
        self.failures = 0
        self.last_failure_at = -math.inf
        self.not_before = -math.inf
