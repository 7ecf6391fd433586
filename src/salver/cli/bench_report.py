"""What was measured, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
import msgspec

from salver.bench.failure import Failure
from salver.bench.report import BenchReport, Latencies, RunReport, VerdictReport

_PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
_UNITS = {"ms": " ms", "%": " %", "/s": "/s"}


def document(measured: BenchReport) -> str:
    """All of it as JSON."""
    return msgspec.json.format(msgspec.json.encode(measured), indent=2).decode()


def text(measured: BenchReport) -> str:
    """One run in full, several as a table, a line for each."""
    runs = measured.runs
    parts = [_heading(measured), *([_full(runs[0])] if len(runs) == 1 else [_table(runs), *_best(measured)])]
    return "\n\n".join(parts)


def _heading(measured: BenchReport) -> str:
    body = f" with {measured.body_bytes:,} bytes" if measured.body_bytes else ""
    how = f"{measured.arrivals} arrivals, at most {measured.connections} connections"
    cut = " · interrupted" if measured.interrupted else ""
    return f"{click.style(f'{measured.method} {measured.url}', bold=True)}{body} · {how}{cut}"


# --- one run --------------------------------------------------------------------------------------------


def _full(run: RunReport) -> str:
    due = "as fast as it answers" if run.rate is None else f"{run.requests:,} due in {run.duration_s:.4g} s"
    unfinished = f" · {run.unfinished:,} unfinished" if run.unfinished else ""
    lines = [
        _row("Requests", f"{due}{unfinished}"),
        _row(
            "Per second",
            f"{run.offered_per_s:,.1f} offered · {run.answered_per_s:,.1f} answered · "
            f"{run.goodput_per_s:,.1f} successful · {_bytes(run.received_bytes_per_s)}/s received",
        ),
        _row("Answers", " · ".join(f"{status}: {count:,}" for status, count in run.statuses.items()) or "none"),
    ]
    for kind, count in run.errors.items():
        lines.append(_row("No answer", f"{kind}: {count:,}, {Failure(kind).words}"))
    return "\n".join(lines) + "\n\n" + _latencies(run) + _verdicts(run.slo)


def _latencies(run: RunReport) -> str:
    rows: list[tuple[str, Latencies | None]] = [
        ("  successful", run.latency_ms),
        ("  first byte of those", run.first_byte_ms),
        ("  rejected (429, 503)", run.rejected_latency_ms),
        ("  generator late by", run.generator.lag_ms),
    ]
    cells = [("Latency, ms", *_PERCENTILES), *((name, *_percentiles(found)) for name, found in rows if found)]
    return _aligned(cells)


def _verdicts(verdicts: Sequence[VerdictReport]) -> str:
    if not verdicts:
        return ""
    width = max(len(verdict.slo) for verdict in verdicts)
    lines = [f"{verdict.slo:<{width}}  {_mark(met=verdict.met)}  {_measured(verdict)}" for verdict in verdicts]
    return "\n\n" + "\n".join(_row("SLO" if number == 0 else "", line) for number, line in enumerate(lines))


def _measured(verdict: VerdictReport) -> str:
    return "nothing measured" if verdict.measured is None else f"{verdict.measured:,.4g}{_UNITS[verdict.unit]}"


def _mark(*, met: bool) -> str:
    return click.style("met   ", fg="green") if met else click.style("missed", fg="red")


# --- several --------------------------------------------------------------------------------------------


def _table(runs: Sequence[RunReport]) -> str:
    slo = ("SLO",) if runs[0].slo else ()
    head = ("Rate", "answered/s", "successful/s", "rejected", "failed", *_PERCENTILES, "first p99", *slo)
    return _aligned([head, *(_line(run) for run in runs)]) + "\n\nLatencies in ms, of the successful."


def _line(run: RunReport) -> tuple[str, ...]:
    latencies = _percentiles(run.latency_ms) if run.latency_ms else ("-",) * len(_PERCENTILES)
    slo = ("met" if run.met else "missed",) if run.slo else ()
    return (
        "max" if run.rate is None else f"{run.rate:g}",
        f"{run.answered_per_s:,.1f}",
        f"{run.goodput_per_s:,.1f}",
        f"{run.rejected:,}",
        f"{run.failed:,}",
        *latencies,
        f"{run.first_byte_ms.p99:,.2f}" if run.first_byte_ms else "-",
        *slo,
    )


def _best(measured: BenchReport) -> Iterable[str]:
    if measured.met is None:
        return
    objectives = ", ".join(verdict.slo for verdict in measured.runs[0].slo)
    rates = [run.rate for run in measured.runs if run.met and run.rate is not None]
    yield f"{objectives}: met up to {max(rates):g}/s." if rates else f"{objectives}: met at none of these rates."


# --- cells ----------------------------------------------------------------------------------------------


def _percentiles(found: Latencies) -> tuple[str, ...]:
    return tuple(f"{value:,.2f}" for value in (found.p50, found.p90, found.p99, found.p999, found.max))


def _row(title: str, value: str) -> str:
    return f"{title:<12}{value}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of numbers, with the first one of words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in columns)
        for columns in (enumerate(zip(row, widths, strict=True)) for row in rows)
    )


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.2f} GB"
