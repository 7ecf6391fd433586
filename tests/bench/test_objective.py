"""Objectives: how they are read, what is said about wrong ones, when they are met."""

from __future__ import annotations

import pytest

from salver.bench.failure import Failure
from salver.bench.objective import ObjectiveError, judge, parse
from salver.bench.tally import Tally

MS = 1_000_000


def measured() -> Tally:
    """A window of 2 s: 90 successes of 1 to 90 ms, first bytes after half of that, 5 rejections, 5 timeouts."""
    tally = Tally(0, 2000 * MS)
    for number in range(1, 91):
        tally.answered(200, 0, number * MS // 2, number * MS)
    for _ in range(5):
        tally.answered(503, 0, MS, MS)
        tally.failed(Failure.TIMEOUT, 0)
    return tally


@pytest.mark.parametrize(
    ("text", "metric", "percent", "comparison", "bound", "unit"),
    [
        ("p99<50ms", "p99", 99, "<", 50, "ms"),
        ("p99.9 <= 1.5 s", "p99.9", 99.9, "<=", 1500, "ms"),
        ("p50<900us", "p50", 50, "<", 0.9, "ms"),
        ("max<2s", "max", None, "<", 2000, "ms"),
        ("ttfb_p90<20ms", "ttfb_p90", 90, "<", 20, "ms"),
        ("ttfb_mean<1µs", "ttfb_mean", None, "<", 0.001, "ms"),
        ("errors<0.1%", "errors", None, "<", 0.1, "%"),
        ("rejected>=1%", "rejected", None, ">=", 1, "%"),
        ("rate>990/s", "rate", None, ">", 990, "/s"),
        ("p100<1s ", "p100", 100, "<", 1000, "ms"),
    ],
)
def test_what_is_read(
    text: str, metric: str, percent: float | None, comparison: str, bound: float, unit: str
) -> None:
    assert parse(text)[1:] == (metric, percent, comparison, pytest.approx(bound), unit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'', character 1: expected p50, p99, p99.9"),
        ("q99<5ms", "character 1: expected p50, p99, p99.9 …, mean, max, the same with ttfb_ before it, errors"),
        ("p99", "'p99', character 4: expected <, <=, > or >=, found the end."),
        ("p101<5ms", "character 4: expected <, <=, > or >=, found '1<5ms'."),
        ("p99=5ms", "character 4: expected <, <=, > or >=, found '=5ms'."),
        ("p99<ms", "character 5: expected a number, such as 50 or 0.1, found 'ms'."),
        ("p99<-5ms", "character 5: expected a number"),
        ("p99<50", "'p99<50', character 7: expected the unit us, ms or s, found the end."),
        ("p99<50 ms now", "character 8: expected the unit us, ms or s, found 'ms now'."),
        ("errors<1", "character 9: expected the unit %, found the end."),
        ("errors<1ms", "character 9: expected the unit %, found 'ms'."),
        ("rate>=990", "character 10: expected the unit /s, found the end."),
        ("ttfb_errors<1%", "character 1: expected p50"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ObjectiveError) as caught:
        parse(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("p50<46ms", 45, True),
        ("p50<45ms", 45, False),
        ("max<=90ms", 90, True),
        ("max<90ms", 90, False),
        ("mean<50ms", 45.5, True),
        ("ttfb_max<=45ms", 45, True),
        ("errors<=10%", 10, True),
        ("errors<10%", 10, False),
        ("rejected<=5%", 5, True),
        ("rate>=45/s", 45, True),
        ("rate>45/s", 45, False),
    ],
)
def test_the_verdict(text: str, value: float, met: bool) -> None:
    verdict = judge(parse(text), measured())
    assert verdict.measured == pytest.approx(value, rel=0.01)
    assert verdict.met is met


@pytest.mark.parametrize("text", ["p99<1s", "errors<100%", "ttfb_max<1s", "rejected<1%"])
def test_what_was_not_measured_is_not_met(text: str) -> None:
    verdict = judge(parse(text), Tally(0, 1000 * MS))
    assert (verdict.measured, verdict.met) == (None, False)
