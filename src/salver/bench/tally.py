"""What became of the requests of one run, in counters and histograms.

The run has a *window*, after the warm-up. Counts and latencies are of the requests that were *due* in it, each of
which has one outcome, also when that comes after its end: who waits longest must not be left out. Rates are of what
*ended* in it, of all requests: a straggler would otherwise stretch the time and halve the rate.
"""

from __future__ import annotations

from collections import Counter

from salver.bench.failure import Failure
from salver.bench.histogram import Histogram

REJECTIONS = frozenset({429, 503})
"""How servers say "not now": told apart, since a quick no is neither success nor failure of the same kind."""

_BAD = 400
"""From this status on, an answer is no success. Redirects are answers; nobody follows them."""


class Tally:
    """Counts outcomes; times are nanoseconds of one clock.

    Args:
        begin: of the window.
        end: of the window; earlier when the run is cut short, see ``cut_short``.

    Attributes:
        successful, rejected: latencies from due to the last byte, of answers below 400, of 429 and 503.
        first_byte: of the successful, from due to the first byte of the answer.
        lag: how late the generator itself was with each request that it has sent.
        statuses, failures: how often each.
        waited: requests that found every connection busy.
        unfinished: requests that were due, and cut short.
        answers_ended, successes_ended, bytes_ended: within the window, of all requests.
    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.successful = Histogram()
        self.rejected = Histogram()
        self.first_byte = Histogram()
        self.lag = Histogram()
        self.statuses: Counter[int] = Counter()
        self.failures: Counter[Failure] = Counter()
        self.waited = 0
        self.unfinished = 0
        self.answers_ended = 0
        self.successes_ended = 0
        self.bytes_ended = 0

    # --- what happens -----------------------------------------------------------------------------------

    def sent(self, due: int, free: int, now: int) -> None:
        """A request leaves.

        Args:
            free: when the connection that it takes became free, if all were busy before; long ago otherwise.
        """
        if due >= self.begin:
            self.lag.record(now - max(due, free))
            self.waited += due < free

    def expired(self, due: int) -> None:
        """A request has waited for a connection until it was too late."""
        self.failed(Failure.UNSENT, due)
        self.waited += due >= self.begin

    def received(self, size: int, now: int) -> None:
        """Bytes of an answer, head and body."""
        if self.begin <= now < self.end:
            self.bytes_ended += size

    def answered(self, status: int, due: int, first_byte: int, now: int) -> None:
        """A whole answer is there."""
        good = status < _BAD
        if self.begin <= now < self.end:
            self.answers_ended += 1
            self.successes_ended += good
        if due < self.begin:
            return
        self.statuses[status] += 1
        if good:
            self.successful.record(now - due)
            self.first_byte.record(first_byte - due)
        elif status in REJECTIONS:
            self.rejected.record(now - due)

    def failed(self, failure: Failure, due: int) -> None:
        """No answer will come, or no whole one."""
        if due >= self.begin:
            self.failures[failure] += 1

    def left(self, due: int) -> None:
        """The run is cut short while this request waits or runs."""
        if due >= self.begin:
            self.unfinished += 1

    def cut_short(self, now: int) -> None:
        """The run ends now."""
        self.end = max(min(self.end, now), self.begin)

    # --- what it comes to -------------------------------------------------------------------------------

    @property
    def window_s(self) -> float:
        return (self.end - self.begin) / 1e9

    @property
    def answers(self) -> int:
        return self.statuses.total()

    @property
    def requests(self) -> int:
        """That were due in the window."""
        return self.answers + self.failures.total() + self.unfinished

    @property
    def ended(self) -> int:
        """Requests that have an outcome."""
        return self.answers + self.failures.total()

    @property
    def errors(self) -> int:
        """Outcomes other than success."""
        return self.ended - self.successful.count

    def per_second(self, count: int) -> float:
        """``count`` over the window; 0 when that was never reached."""
        return count / self.window_s if self.window_s else 0.0
