"""How the controller itself is: whether its event loop keeps up, and what its decisions take.

Nothing is done for this that would not be done anyway. A decision is timed where it is made. How late the event loop
is, the timers know that look at replicas and at the load four times a second (``liveness``, ``demand``): they say by
how much they came too late. Where there is neither a replica to be watched nor load to be counted, nothing is
measured, and nothing said.

What is remembered is a window of the last ``WINDOW`` values of each.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Iterable

from salver.controller.instance_details import ControllerHealthMetrics, DurationStats

WINDOW = 512
"""Values: two minutes of a timer that comes four times a second."""


class Vitals:
    """One controller's own signs of life."""

    def __init__(self) -> None:
        self._started_at_s = time.time()
        self._started = time.monotonic()
        self._decisions = 0
        self._decided_at_s: float | None = None
        self._took_s: deque[float] = deque(maxlen=WINDOW)
        self._late_s: deque[float] = deque(maxlen=WINDOW)
        self._expected_s: float | None = None
        self._sample_age_s: deque[float] = deque(maxlen=WINDOW)

    def decided(self, took_s: float) -> None:
        """An event has been handled: decided on, written down, and told to those who carry it out."""
        self._decisions += 1
        self._decided_at_s = time.time()
        self._took_s.append(took_s)

    def woke(self, after_s: float, late_s: float) -> None:
        """A timer came ``late_s`` later than the ``after_s`` for which it was set."""
        self._expected_s = after_s
        self._late_s.append(max(late_s, 0.0))

    def sampled(self, age_s: float) -> None:
        """The load has been counted, ``age_s`` after it was the last time."""
        self._sample_age_s.append(age_s)

    def collect(self, *, subscribers: int, reports: int, commands: int, unsaved: int) -> ControllerHealthMetrics:
        """All of it, as of now; to be called on the event loop.

        Args:
            subscribers: who gets the routing table.
            reports: of callers, about what waits in them, so far.
            commands: that are being carried out now.
            unsaved: events and ends of replicas that could not be written to their files.
        """
        uptime_s = time.monotonic() - self._started
        late_s = self._late_s[-1] if self._late_s else None
        expected_s = self._expected_s
        return ControllerHealthMetrics(
            timestamp=time.time(),
            controller_start_time=self._started_at_s,
            uptime_s=uptime_s,
            last_control_loop_time=self._decided_at_s,
            num_control_loops=self._decisions,
            loop_duration_s=duration_stats(self._took_s),
            loops_per_second=self._decisions / uptime_s if uptime_s > 0 else 0.0,
            last_sleep_duration_s=None if expected_s is None or late_s is None else expected_s + late_s,
            expected_sleep_duration_s=expected_s,
            event_loop_delay_s=late_s,
            num_asyncio_tasks=len(asyncio.all_tasks()),
            handle_reports_received=reports,
            ingest_reports_received=reports,
            process_memory_mb=_rss_bytes() / 2**20,
            event_loop_delay_stats_s=duration_stats(self._late_s),
            load_age_s=duration_stats(self._sample_age_s),
            num_subscribers=subscribers,
            num_commands=commands,
            num_unsaved_records=unsaved,
            cpu_s=time.process_time(),
        )


def duration_stats(values: Iterable[float]) -> DurationStats | None:
    """What is to be known of a window of times; None of an empty one."""
    ordered = sorted(values)
    if not ordered:
        return None
    mean = math.fsum(ordered) / len(ordered)
    variance = math.fsum((value - mean) ** 2 for value in ordered) / len(ordered)
    return DurationStats(
        mean=mean,
        std=math.sqrt(variance),
        min=ordered[0],
        max=ordered[-1],
        p50=_quantile(ordered, 0.5),
        p90=_quantile(ordered, 0.9),
        p99=_quantile(ordered, 0.99),
        count=len(ordered),
    )


def _quantile(ordered: list[float], part: float) -> float:
    """The smallest value that so much of them does not exceed."""
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)]


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
