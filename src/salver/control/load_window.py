"""What a number was during the last so many seconds: its mean over time, its maximum and minimum.

A value holds until the next one, so the mean is right however irregularly values come. Neighbouring values are joined
into pieces of a small part of the period: memory and work have a bound, whatever the period is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MOST_PIECES = 200
"""Into how many pieces a period is cut at most, apart from the two at its ends."""

_JOINED_PIECES = MOST_PIECES / 2  # two neighbours together are longer than the period by this, or they were joined


@dataclass(slots=True)
class _Piece:
    start: float
    end: float
    area: float
    """Value times seconds."""
    least: float
    most: float


class LoadWindow:
    """One number over time.

    Args:
        period_s: how many seconds it looks back; while it is younger than that, it is all there is.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._pieces: deque[_Piece] = deque()
        self._value: float | None = None
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._pieces)

    def add(self, value: float, now: float) -> None:
        """The number is ``value`` from ``now`` on."""
        if self._value is not None and now > self._since:
            self._held(self._value, self._since, now)
        self._value, self._since = value, now
        while self._pieces and self._pieces[0].end <= now - self.period_s:
            self._pieces.popleft()

    def _held(self, value: float, start: float, end: float) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is None or end - last.start > self.period_s / _JOINED_PIECES:
            self._pieces.append(_Piece(start, end, value * (end - start), value, value))
            return
        last.end = end
        last.area += value * (end - start)
        last.least = min(last.least, value)
        last.most = max(last.most, value)

    def aggregate(self, how: str) -> float:
        """``mean``, ``max`` or ``min`` up to the latest value; 0 before there is one."""
        if self._value is None:
            return 0.0
        if how == "max":
            return max([self._value, *(piece.most for piece in self._pieces)])
        if how == "min":
            return min([self._value, *(piece.least for piece in self._pieces)])
        return self._mean(self._value)

    def _mean(self, latest: float) -> float:
        if not self._pieces:
            return latest
        first = self._pieces[0]
        start = max(first.start, self._since - self.period_s)
        share = (first.end - start) / (first.end - first.start)  # of the first piece, what is not too old
        area = share * first.area + sum(piece.area for piece in self._pieces) - first.area
        return max(area, 0.0) / (self._since - start)
