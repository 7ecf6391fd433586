"""Percentiles of a histogram against those of the sorted values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.bench.histogram import RELATIVE_ERROR, Histogram

VALUES = st.lists(st.integers(0, 2**42), min_size=1, max_size=200)


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@settings(max_examples=50, deadline=None)
@given(VALUES, st.floats(0, 100))
def test_a_percentile_is_never_too_low_and_at_most_its_error_too_high(values: list[int], percent: float) -> None:
    rank = max(math.ceil(round(percent * len(values) / 100, 6)), 1)
    exact = sorted(values)[rank - 1]
    found = of(values).percentile(percent)
    assert exact <= found <= exact * (1 + RELATIVE_ERROR)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_count_mean_and_maximum_are_exact(values: list[int]) -> None:
    histogram = of(values)
    assert (histogram.count, histogram.largest) == (len(values), max(values))
    assert histogram.mean() == pytest.approx(sum(values) / len(values))
    assert histogram.percentile(100) == max(values)


@settings(max_examples=20, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_merging_is_associative_commutative_and_the_same_as_recording_all(
    one: list[int], two: list[int], three: list[int]
) -> None:
    left = of(one)
    left.merge(of(two))
    left.merge(of(three))
    tail = of(three)
    tail.merge(of(two))
    right = of(one)
    right.merge(tail)
    assert left == right == of(one + two + three)


def test_small_values_are_exact_and_impossible_ones_are_kept_within_bounds() -> None:
    histogram = of(list(range(100)))
    assert [histogram.percentile(percent) for percent in (1, 50, 99, 99.9)] == [0, 49, 98, 99]
    assert of([-5]).largest == 0
    assert of([2**80]).percentile(50) == 2**43 - 1


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        Histogram().percentile(50)
    with pytest.raises(ValueError, match="no percentile 101"):
        of([1]).percentile(101)
    with pytest.raises(ValueError, match="no mean"):
        Histogram().mean()
