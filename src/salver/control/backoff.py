"""When a replica that failed may be replaced.

The first failure of something that worked is replaced at once: most are alone. From then on, or when it has
never worked, the wait doubles with every failure, so that a crash loop costs nothing and a short outage
little. The jitter keeps deployments that failed together from starting together.

Only a long good run ends the series. Were it short, something that dies a moment after it would be started again at
once for ever. And a replica that had run for so long is no part of a series: replicas that wear out one after the
other, an hour each, are each replaced at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
CALM_S = 600.0
"""Failures further apart than this much good running have nothing to do with each other."""

FAILURES_OF_A_CRASH_LOOP = 5
"""More than these in a row, and people are told; while no replica runs requests are refused, not left to wait."""

_MAX_DOUBLINGS = 10  # 0.1 s doubled ten times is beyond MAX_DELAY_S; more would only overflow


class Backoff:
    """Counts consecutive failures.

    Args:
        jitter: a number from 0 to 1; a wait is between half of its full length and all of it.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self.failures = 0
        self.first_failure_at = -math.inf
        self.last_failure_at = -math.inf
        self.not_before = -math.inf

    @property
    def looping(self) -> bool:
        """Whether it is a crash loop, also while what was started last runs."""
        return self.failures > FAILURES_OF_A_CRASH_LOOP

    @property
    def lasted_s(self) -> float:
        """From the first failure to the last."""
        return self.last_failure_at - self.first_failure_at if self.failures else 0.0

    def fail(self, now: float, *, worked_before: bool, ran_s: float = 0.0) -> None:
        """One more failure.

        Args:
            worked_before: forgives the first.
            ran_s: for how long what failed had run.
        """
        if self.failures and ran_s >= CALM_S:
            return
        if not self.failures:
            self.first_failure_at = now
        self.failures += 1
        self.last_failure_at = now
        if self.failures == 1 and worked_before:
            return
        full_s = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(self.failures - 1, _MAX_DOUBLINGS))
        self.not_before = max(self.not_before, now + full_s * (0.5 + self._jitter() / 2))

    def calm_at(self, running_since: Collection[float], *, complete: bool) -> float | None:
        """When the failures so far stop counting; None while nothing leads there.

        Either a replica that began to run after the last of them, or, when nothing is missing, all of them,
        has to run for ``CALM_S``. Silence proves nothing: slow constructors and long waits are silent, too.

        Args:
            running_since: when each replica that runs began to.
            complete: whether none is missing.
        """
        if not self.failures:
            return None
        proven = [since for since in running_since if since >= self.last_failure_at]
        if not proven and running_since and complete:
            proven = [self.last_failure_at]
        return min(proven) + CALM_S if proven else None

    def reset(self) -> None:
        """It works again, or the user wants a fresh attempt."""
        self.failures = 0
        self.first_failure_at = -math.inf
        self.last_failure_at = -math.inf
        self.not_before = -math.inf
