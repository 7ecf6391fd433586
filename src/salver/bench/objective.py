"""Service level objectives: ``p99<50ms`` as a record, and whether a run has met it.

objective  = metric operator number unit
metric     = ["ttfb_"] ("p" percent | "mean" | "max")        latency of the successful; to the first byte
           | "errors" | "rejected"                            share of all requests
           | "rate"                                           successful answers per second
operator   = "<" | "<=" | ">" | ">="
unit       = "us" | "ms" | "s"  for latencies, "%" for shares, "/s" for the rate
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from salver.bench.histogram import Histogram
from salver.bench.tally import Tally

_METRICS = "p50, p99, p99.9 …, mean, max, the same with ttfb_ before it, errors, rejected or rate"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_TIMES_MS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}

_metric = re.compile(r"(?P<ttfb>ttfb_)?(?:p(?P<percent>100|\d{1,2}(?:\.\d{1,4})?)|mean|max)|errors|rejected|rate")
_operator = re.compile(r"[<>]=?")
_number = re.compile(r"\d{1,12}(?:\.\d{1,9})?")


class ObjectiveError(ValueError):
    """An objective that cannot be read.

    Args:
        text: of the objective.
        position: of what is wrong in it, from 0.
        expected: what should be there.
    """

    def __init__(self, text: str, position: int, expected: str) -> None:
        found = repr(text[position:]) if position < len(text) else "the end"
        super().__init__(f"{text!r}, character {position + 1}: expected {expected}, found {found}.")
        self.position = position


class Objective(NamedTuple):
    """What a run must reach.

    Attributes:
        text: as the user wrote it.
        metric: ``p99``, ``ttfb_p99``, ``errors`` and so on.
        percent: of a percentile; None of everything else.
        comparison: ``<``, ``<=``, ``>`` or ``>=``.
        bound: in ``unit``.
        unit: ``ms``, ``%`` or ``/s``.
    """

    text: str
    metric: str
    percent: float | None
    comparison: str
    bound: float
    unit: str


class Verdict(NamedTuple):
    """Whether an objective was met; ``measured`` in its unit, None when there was nothing to measure: not met."""

    objective: Objective
    measured: float | None
    met: bool


def parse(text: str) -> Objective:
    """Read one objective, such as ``p99<50ms``; spaces between its parts are allowed. Raises ObjectiveError."""
    metric, place = _part(_metric, text, 0, _METRICS)
    comparison, place = _part(_operator, text, place, "<, <=, > or >=")
    number, place = _part(_number, text, place, "a number, such as 50 or 0.1")
    units = {"rate": {"/s": 1.0}, "errors": {"%": 1.0}, "rejected": {"%": 1.0}}.get(metric[0], _TIMES_MS)
    place = _skip_spaces(text, place)
    unit = text[place:].rstrip()
    if unit not in units:
        raise ObjectiveError(
            text, place, "the unit us, ms or s" if units is _TIMES_MS else f"the unit {next(iter(units))}"
        )
    percent = metric["percent"]
    return Objective(
        text,
        metric[0],
        float(percent) if percent is not None else None,
        comparison[0],
        float(number[0]) * units[unit],
        "ms" if units is _TIMES_MS else unit,
    )


def judge(objective: Objective, tally: Tally) -> Verdict:
    """Whether the run that ``tally`` has counted met ``objective``."""
    measured = _measured(objective, tally)
    met = measured is not None and _OPERATORS[objective.comparison](measured, objective.bound)
    return Verdict(objective, measured, met)


def _measured(objective: Objective, tally: Tally) -> float | None:
    if objective.metric == "rate":
        return tally.per_second(tally.successes_ended) if tally.window_s else None
    if objective.unit == "%":
        count = tally.errors if objective.metric == "errors" else tally.rejected.count
        return 100 * count / tally.ended if tally.ended else None
    histogram = tally.first_byte if objective.metric.startswith("ttfb_") else tally.successful
    return _latency_ms(histogram, objective) if histogram.count else None


def _latency_ms(histogram: Histogram, objective: Objective) -> float:
    if objective.percent is not None:
        return histogram.percentile(objective.percent) / 1e6
    return (histogram.mean() if objective.metric.endswith("mean") else histogram.largest) / 1e6


def _part(pattern: re.Pattern[str], text: str, place: int, expected: str) -> tuple[re.Match[str], int]:
    place = _skip_spaces(text, place)
    found = pattern.match(text, place)
    if found is None:
        raise ObjectiveError(text, place, expected)
    return found, found.end()


def _skip_spaces(text: str, place: int) -> int:
    while place < len(text) and text[place] == " ":
        place += 1
    return place
