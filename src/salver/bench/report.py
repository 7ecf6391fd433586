"""What was measured, as records: of one run, and of all. ``salver bench --json`` prints them as they are.

The format is described in docs/bench.md; ``FORMAT`` changes when a field changes its meaning or goes.
"""

from __future__ import annotations

from msgspec import Struct

from salver import __version__
from salver.bench.course import Outcome, Plan
from salver.bench.histogram import Histogram
from salver.bench.objective import Verdict, judge
from salver.bench.tally import Tally

FORMAT = 1

_LATE_MS = 1.0
_LATE_SHARE = 0.1
"""The generator is the bottleneck when the p99 of its lag is more than both: so long, and such a part of the p99."""

_NEVER_IDLE = 0.9
"""Of one core, used or waited for: from here on the generator has no time left, and answers wait to be read."""

_KEEPS_UP = 0.97
"""The share of what is offered that a server answers which keeps up; the rest is left to chance and to the edges."""


class Latencies(Struct, frozen=True):
    """In milliseconds; ``count`` is of what."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class GeneratorReport(Struct, frozen=True):
    """How the generator itself did.

    Attributes:
        lag_ms: from when a request was due and a connection free to when it left.
        cpu_cores: CPU time over time, while requests were due.
        cpu_wait_cores: time in which it had work to do and did not get the CPU, over time.
        waited: requests that found every connection busy.
        connections_opened: in this run.
        bottleneck: the numbers say more about the generator than about the server.
    """

    lag_ms: Latencies | None
    cpu_cores: float
    cpu_wait_cores: float
    waited: int
    connections_opened: int
    bottleneck: bool


class VerdictReport(Struct, frozen=True):
    """One objective; ``measured`` is in ``unit``."""

    slo: str
    met: bool
    measured: float | None
    unit: str


class RunReport(Struct, frozen=True):
    """One run; docs/bench.md describes the fields.

    Attributes:
        rate: requests per second; None of a closed loop.
    """

    rate: float | None
    duration_s: float
    requests: int
    successful: int
    rejected: int
    failed: int
    unfinished: int
    statuses: dict[str, int]
    errors: dict[str, int]
    offered_per_s: float
    answered_per_s: float
    goodput_per_s: float
    received_bytes_per_s: float
    latency_ms: Latencies | None
    first_byte_ms: Latencies | None
    rejected_latency_ms: Latencies | None
    generator: GeneratorReport
    slo: tuple[VerdictReport, ...]
    warnings: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Every objective; also when there is none."""
        return all(verdict.met for verdict in self.slo)

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())


class BenchReport(Struct, frozen=True):
    """All runs, and what was asked for; ``met`` is None without objectives."""

    format: int
    salver: str
    url: str
    method: str
    body_bytes: int
    arrivals: str
    connections: int
    warmup_s: float
    timeout_s: float
    seed: int
    interrupted: bool
    met: bool | None
    runs: tuple[RunReport, ...]


def report(plan: Plan, outcomes: list[Outcome], *, interrupted: bool) -> BenchReport:
    """The report on what came of ``plan``."""
    runs = tuple(_run_report(plan, outcome) for outcome in outcomes)
    return BenchReport(
        format=FORMAT,
        salver=__version__,
        url=plan.request.url,
        method=plan.request.method,
        body_bytes=plan.request.body_bytes,
        arrivals=plan.arrivals,
        connections=plan.limits.connections,
        warmup_s=plan.warmup_s,
        timeout_s=plan.limits.timeout_s,
        seed=plan.seed,
        interrupted=interrupted,
        met=all(run.met for run in runs) if plan.objectives else None,
        runs=runs,
    )


def _run_report(plan: Plan, outcome: Outcome) -> RunReport:
    tally = outcome.tally
    generator = _generator_report(outcome)
    return RunReport(
        rate=outcome.rate,
        duration_s=round(tally.window_s, 6),
        requests=tally.requests,
        successful=tally.successful.count,
        rejected=tally.rejected.count,
        failed=tally.errors - tally.rejected.count,
        unfinished=tally.unfinished,
        statuses={str(status): count for status, count in sorted(tally.statuses.items())},
        errors={failure.value: count for failure, count in tally.failures.most_common()},
        offered_per_s=_rate(tally, tally.requests),
        answered_per_s=_rate(tally, tally.answers_ended),
        goodput_per_s=_rate(tally, tally.successes_ended),
        received_bytes_per_s=_rate(tally, tally.bytes_ended),
        latency_ms=_latencies(tally.successful),
        first_byte_ms=_latencies(tally.first_byte),
        rejected_latency_ms=_latencies(tally.rejected),
        generator=generator,
        slo=tuple(_verdict_report(judge(objective, tally)) for objective in plan.objectives),
        warnings=tuple(_warnings(plan, outcome, generator)),
    )


def _generator_report(outcome: Outcome) -> GeneratorReport:
    tally = outcome.tally
    return GeneratorReport(
        lag_ms=_latencies(tally.lag),
        cpu_cores=round(outcome.cpu_cores, 3),
        cpu_wait_cores=round(outcome.cpu_wait_cores, 3),
        waited=tally.waited,
        connections_opened=outcome.opened,
        bottleneck=outcome.cpu_cores + outcome.cpu_wait_cores > _NEVER_IDLE or _is_late(tally),
    )


def _is_late(tally: Tally) -> bool:
    if not tally.lag.count:
        return False
    lag = tally.lag.percentile(99) / 1e6
    latency = tally.successful.percentile(99) / 1e6 if tally.successful.count else 0.0
    return lag > _LATE_MS and lag > _LATE_SHARE * latency


def _warnings(plan: Plan, outcome: Outcome, generator: GeneratorReport) -> list[str]:
    tally = outcome.tally
    said: list[str] = []
    if generator.bottleneck and generator.lag_ms is not None:
        said.append(
            f"the generator was the bottleneck, not the server: it used {generator.cpu_cores:.2f} of a core, waited "
            f"{generator.cpu_wait_cores:.2f} for one that others had, and sent {generator.lag_ms.p99:.1f} ms late at "
            "p99. These latencies are too long by that; use a lower rate or another machine."
        )
    offered, answered = tally.per_second(tally.requests), tally.per_second(tally.answers_ended)
    if outcome.rate is not None and tally.window_s and answered < _KEEPS_UP * offered and not tally.unfinished:
        said.append(f"the server did not keep up: {offered:,.0f}/s were due and {answered:,.0f}/s answered.")
    if tally.waited:
        said.append(
            f"{tally.waited:,} of {tally.requests:,} requests found all {plan.limits.connections} connections busy "
            "and waited for one, which counts in their latency; --connections allows more."
        )
    if outcome.rate is None:
        said.append(
            "with --rate max every connection waits for its answer before it asks again, so these latencies follow "
            "from the throughput and hide the stalls that clients would meet; measure latency at a rate."
        )
    return said


def _verdict_report(verdict: Verdict) -> VerdictReport:
    measured = None if verdict.measured is None else round(verdict.measured, 4)
    return VerdictReport(verdict.objective.text, verdict.met, measured, verdict.objective.unit)


def _latencies(histogram: Histogram) -> Latencies | None:
    if not histogram.count:
        return None
    p50, p90, p99, p999 = (round(histogram.percentile(percent) / 1e6, 4) for percent in (50, 90, 99, 99.9))
    return Latencies(
        histogram.count, round(histogram.mean() / 1e6, 4), p50, p90, p99, p999, round(histogram.largest / 1e6, 4)
    )


def _rate(tally: Tally, count: int) -> float:
    return round(tally.per_second(count), 3)
