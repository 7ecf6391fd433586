"""Arrivals: their mean, their spread, and that a seed is all they depend on."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.bench.schedule import Arrivals, ClosedLoop, OpenLoop, offsets


def first(count: int, arrivals: Arrivals, rate: float, seed: int = 0) -> list[float]:
    return list(itertools.islice(offsets(arrivals, rate, seed), count))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 1e6), st.integers(0, 2**32))
def test_poisson_gaps_have_the_mean_and_the_deviation_of_an_exponential(rate: float, seed: int) -> None:
    times = first(4000, "poisson", rate, seed)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]
    assert statistics.fmean(gaps) == pytest.approx(1 / rate, rel=0.1)  # 6 standard errors
    assert statistics.pstdev(gaps) == pytest.approx(1 / rate, rel=0.2)
    assert times == sorted(times)


def test_a_seed_decides_the_schedule() -> None:
    assert first(100, "poisson", 50, seed=7) == first(100, "poisson", 50, seed=7)
    assert first(100, "poisson", 50, seed=7) != first(100, "poisson", 50, seed=8)


def test_uniform_arrivals_are_evenly_spaced_and_do_not_drift() -> None:
    times = first(30_001, "uniform", 3)
    assert times[:4] == [0, 1 / 3, 2 / 3, 1]
    assert times[-1] == 10_000


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 1000), st.floats(0, 2))
def test_an_open_loop_ends_and_does_not_look_at_the_clock(rate: float, duration_s: float) -> None:
    start, end = 10**15, 10**15 + int(duration_s * 1e9)
    schedule = OpenLoop("uniform", rate, 0, start=start, end=end)
    taken = 0
    while (due := schedule.next_due(0)) is not None:
        assert schedule.next_due(end * 2) == due
        assert start <= due < end
        schedule.take()
        taken += 1
    assert taken == pytest.approx(rate * duration_s, abs=1)


def test_a_closed_loop_is_always_due_from_its_start_to_its_end() -> None:
    schedule = ClosedLoop(start=10, end=100)
    assert [schedule.next_due(now) for now in (5, 99, 100)] == [10, 99, None]
