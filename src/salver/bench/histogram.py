"""Counts of values in buckets that grow with the value: percentiles with a bounded error, in bounded memory.

Values below 256 have a bucket each. Above that, every power of two is cut into 128 buckets of equal width, so that no
bucket is wider than 1/128 of the values in it. The idea is HdrHistogram's (Gil Tene): the number of a bucket is a few
bits of the value, and recording is one shift and one addition.
"""

from __future__ import annotations

import math

_BITS = 7
"""Of precision: 2 ** 7 buckets for each power of two."""

_LARGEST = (1 << 43) - 1
"""What is more is counted as this: in nanoseconds, about two and a half hours."""

RELATIVE_ERROR = 2.0**-_BITS
"""A percentile is at most this much above the value that it stands for, never below."""


class Histogram:
    """Non-negative whole numbers, such as nanoseconds.

    Attributes:
        count: how many were recorded.
        total: their sum.
        largest: of them, exactly; 0 without any.
    """

    __slots__ = ("_counts", "count", "largest", "total")

    def __init__(self) -> None:
        self._counts = [0] * (_bucket(_LARGEST) + 1)
        self.count = 0
        self.total = 0
        self.largest = 0

    def record(self, value: int) -> None:
        """Count one value; a negative one, which only a clock that jumps makes, is 0."""
        value = min(max(value, 0), _LARGEST)
        shift = max(value.bit_length() - _BITS - 1, 0)
        self._counts[(shift << _BITS) + (value >> shift)] += 1
        self.count += 1
        self.total += value
        if value > self.largest:
            self.largest = value

    def merge(self, other: Histogram) -> None:
        """Add what ``other`` has counted."""
        for bucket, count in enumerate(other._counts):
            self._counts[bucket] += count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    def percentile(self, percent: float) -> int:
        """The least value that ``percent`` of the values do not exceed, rounded up within its bucket.

        Raises:
            ValueError: nothing was recorded, or ``percent`` is not within 0 and 100.
        """
        if not self.count or not 0 <= percent <= 100:
            raise ValueError(f"no percentile {percent:g} of {self.count} values")
        rank = max(math.ceil(round(percent * self.count / 100, 6)), 1)  # 99.9 % of 1,000 is 999, whatever floats say
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_upper_end(bucket), self.largest)
        raise AssertionError("the buckets hold fewer values than were counted")

    def mean(self) -> float:
        """Raises ValueError when nothing was recorded."""
        if not self.count:
            raise ValueError("no mean of 0 values")
        return self.total / self.count

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and self._counts == other._counts
            and (self.total, self.largest) == (other.total, other.largest)
        )


def _bucket(value: int) -> int:
    shift = max(value.bit_length() - _BITS - 1, 0)
    return (shift << _BITS) + (value >> shift)


def _upper_end(bucket: int) -> int:
    """The largest value of a bucket."""
    shift = max((bucket >> _BITS) - 1, 0)
    return ((bucket - (shift << _BITS) + 1) << shift) - 1
