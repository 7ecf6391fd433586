"""How many requests a replica is sent before it has a free slot for them.

A replica runs ``max_ongoing_requests`` at a time, five unless the user says otherwise. If its callers always kept the
sixth until an answer came, replica and caller would work in turns, never at once, and each would be woken for every
few requests: with requests of tens of microseconds that is half of what both could do. So where requests are short,
some of those that wait do so at the replica.

What waits there has given up its choice of a replica, so it is little: as many as the replica has lately ended in two
milliseconds, for this caller. Requests that take longer than that are kept, and the first free slot gets them. And it
is given back when the replica, against expectation, ends none for a while and another could (``Router``).
"""

from __future__ import annotations

import time

from salver.wire.frames import AHEAD

MOST_BYTES_AHEAD = 64 * 1024
"""Of one request that may wait at a replica."""

MOST_AHEAD = 32
"""How many of one caller's requests wait at a replica; measured: more gain nothing."""

_HORIZON_S = 0.002
_MEASURED_OVER = 16


class Pace:
    """How fast one replica ends the requests of one caller.

    Attributes:
        ahead: how many may wait there now.
        flag: for the frames of requests that may.
        ended_some: since whoever looks has set it to False.
    """

    __slots__ = ("_ended", "_measured_over", "_since", "ahead", "ended_some", "flag")

    def __init__(self) -> None:
        self.slowed()
        self._measured_over = _MEASURED_OVER

    def slots(self, count: int) -> None:
        """The replica runs ``count`` at a time. Those may all end at once, which is no pace: measured over more."""
        self._measured_over = max(self._measured_over, count + _MEASURED_OVER)

    def ended(self) -> None:
        """A request has ended."""
        self.ended_some = True
        self._ended += 1
        if self._ended >= self._measured_over:
            now = time.monotonic()
            self.ahead = min(MOST_AHEAD, int(self._ended * _HORIZON_S / max(now - self._since, 1e-6)))
            self.flag = AHEAD if self.ahead else 0
            self._ended = 0
            self._since = now

    def slowed(self) -> None:
        """Nothing is sent ahead until it has shown its pace again."""
        self.ahead = 0
        self.flag = 0
        self.ended_some = True
        self._ended = 0
        self._since = time.monotonic()
