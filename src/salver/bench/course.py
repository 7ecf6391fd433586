"""From a plan to its outcomes: one run for each rate, each with its own connections, one after the other."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from salver.bench.generator import Generator, Limits
from salver.bench.objective import Objective
from salver.bench.reach import Server, reach
from salver.bench.request import Request
from salver.bench.schedule import Arrivals, ClosedLoop, OpenLoop
from salver.bench.tally import Tally

_HEAD_START_NS = 10_000_000
"""Between the start of a run and its first request, so that the first one is not late already."""

_OTHER_DESCRIPTORS = 64
"""Files that the process has open besides its connections."""


class Plan(NamedTuple):
    """What to measure.

    Attributes:
        request: the one that is sent.
        tls: how to greet an HTTPS server; None for HTTP.
        rates: requests per second, a run for each; None is a closed loop, as fast as the server answers.
        arrivals: how requests are spread.
        warmup_s: at the start of each run, of which nothing is counted.
        duration_s: after that.
        seed: of the schedules; every run has the same one.
        objectives: what each run is judged by.
    """

    request: Request
    tls: ssl.SSLContext | None
    rates: tuple[float | None, ...]
    arrivals: Arrivals
    warmup_s: float
    duration_s: float
    limits: Limits
    seed: int
    objectives: tuple[Objective, ...]


class Outcome(NamedTuple):
    """What came of one run.

    Attributes:
        rate: as in the plan.
        cpu_cores: CPU time of this process over time, while requests were due.
        cpu_wait_cores: the same of time in which it had work to do and did not get the CPU.
        opened: connections.
    """

    rate: float | None
    tally: Tally
    cpu_cores: float
    cpu_wait_cores: float
    opened: int


class Moment(NamedTuple):
    """How far it is, for who watches.

    Attributes:
        run, runs: the number of the run, from 1, and how many there are.
        elapsed_s, total_s: of the run, warm-up included; more than the total while the last answers are awaited.
    """

    run: int
    runs: int
    rate: float | None
    elapsed_s: float
    total_s: float
    tally: Tally


class Course:
    """Carries out a plan.

    Args:
        show: called ten times a second; it must be quick, since nothing is sent meanwhile.

    Attributes:
        outcomes: of the runs that have ended, and of the one that was interrupted.
        interrupted: by Ctrl-C.
    """

    def __init__(self, plan: Plan, show: Callable[[Moment], None] | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self.interrupted = False
        self._plan = plan
        self._show = show
        self._generator: Generator | None = None
        self._bug: BaseException | None = None

    def run(self) -> None:
        """Measure; Ctrl-C ends it early. For the main thread.

        Raises:
            NoServerError: nobody is there.
        """
        allow_descriptors(self._plan.limits.connections + _OTHER_DESCRIPTORS)
        gc.collect()
        gc.freeze()  # what is there now will stay: no collection has to walk through it while requests are due
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        finally:
            gc.unfreeze()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        plan = self._plan
        server = await reach(plan.request, plan.tls, plan.limits.timeout_s)
        loop.set_exception_handler(self._our_bug)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            for number, rate in enumerate(plan.rates, 1):
                if not self.interrupted:
                    self.outcomes.append(await self._run_at(rate, number, server))
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        if self._bug is not None:
            raise self._bug

    async def _run_at(self, rate: float | None, number: int, server: Server) -> Outcome:
        plan = self._plan
        start = time.monotonic_ns() + _HEAD_START_NS
        begin = start + int(plan.warmup_s * 1e9)
        end = begin + int(plan.duration_s * 1e9)
        tally = Tally(begin, end)
        schedule = (
            ClosedLoop(start=start, end=end)
            if rate is None
            else OpenLoop(plan.arrivals, rate, plan.seed, start=start, end=end)
        )
        effort = _Effort()

        def watch() -> None:
            now = time.monotonic_ns()
            if now < end:
                effort.read()
            if self._show is not None:
                elapsed_s = (now - start) / 1e9
                self._show(Moment(number, len(plan.rates), rate, elapsed_s, (end - start) / 1e9, tally))

        self._generator = generator = Generator(server, plan.request, schedule, tally, plan.limits, watch)
        try:
            await generator.run()
        finally:
            self._generator = None
        return Outcome(rate, tally, *effort.shares(), generator.opened)

    def _interrupt(self) -> None:
        self.interrupted = True
        if self._generator is not None:
            self._generator.stop()

    def _our_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback has raised: what would be measured from here on is not to be trusted."""
        self._bug = self._bug or context.get("exception") or RuntimeError(context["message"])
        self._interrupt()


class _Effort:
    """What this process has had of the CPU, and what it has waited for, from now to the last ``read``."""

    def __init__(self) -> None:
        self._first = self._last = _effort()

    def read(self) -> None:
        self._last = _effort()

    def shares(self) -> tuple[float, float]:
        """Of one core: used, and wanted in vain."""
        if self._last == self._first:
            self.read()  # the run was shorter than the time between two looks
        wall, used, waited = (last - first for first, last in zip(self._first, self._last, strict=True))
        return used / wall, waited / wall


def _effort() -> tuple[float, float, float]:
    """Time now, CPU time, time in the run queue; in seconds."""
    try:
        waited_ns = int(Path("/proc/thread-self/schedstat").read_bytes().split()[1])
    except (OSError, IndexError):
        waited_ns = 0  # a kernel without scheduler statistics
    return time.monotonic(), time.process_time(), waited_ns / 1e9


def allow_descriptors(needed: int) -> None:
    """Raise this process's limit of open files, as far as that is allowed.

    Raises:
        ValueError: it is not, in words.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ValueError(
                f"{needed} open files are needed, and `ulimit -Hn` allows {hard}: use fewer connections."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
