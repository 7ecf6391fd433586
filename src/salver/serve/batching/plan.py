"""When a batch closes and who is in it: calls and times go in, batches come out. No I/O, no clock, no user code
but the function that weighs a batch.

Calls of one *kind* wait in one line; kinds (another model, other arguments) never share a batch. Of each line the
*head* is the next batch. It closes, for the first of these reasons that holds:

* ``full``: it weighs ``max_batch_size``, or the call behind it would make it weigh more;
* ``timeout``: its first call has waited for ``batch_wait_timeout_s``;
* ``deadline``: waiting on would leave its most urgent call too little time, see ``Waiting.close_by``;
* ``drained``: the replica is leaving, and nobody will come to fill it.

A head that should close while ``max_concurrent_batches`` run stays open and grows until one of them has ended: what
must wait anyway waits in the batch rather than behind it. Then the line that was due first goes first, so that no
kind starves.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from math import inf
from typing import Generic, TypeVar

from salver.serve.batching.limits import BatchLimits

_EXECUTIONS_REMEMBERED = 16
_EXECUTIONS_OF_TIME_LEFT = 2.0


class Reason(StrEnum):
    """Why a batch closed."""

    FULL = "full"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    DRAINED = "drained"


class Pace:
    """How long one execution takes: the median of the recent ones, so that a slow first one says little."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_EXECUTIONS_REMEMBERED)
        self.typical_s = 0.0

    def record(self, execution_s: float) -> None:
        self._recent.append(execution_s)
        self.typical_s = sorted(self._recent)[len(self._recent) // 2]


class Waiting:
    """A call in a line; the base of what the caller of a plan puts in.

    Attributes:
        kind: who it may share a batch with.
        deadline: when its time is up, ``inf`` for never.
        arrived: when it was put in.
        close_by: when its batch closes at the latest for its sake.

    Of the time that a call has left when it comes, it may spend half on waiting: without knowing how long an
    execution takes, that errs as little on the one side as on the other. Once executions have been seen, their
    pace is known, and a call whose half would not do for twice the typical execution goes earlier. (Waiting for as
    long as the pace allows would fill batches better, but would bet every request on one estimate.)
    """

    __slots__ = ("arrived", "close_by", "deadline", "kind")

    def __init__(self, kind: Hashable, deadline: float = inf) -> None:
        self.kind = kind
        self.deadline = deadline
        self.arrived = 0.0
        self.close_by = inf


W = TypeVar("W", bound=Waiting)
Weigh = Callable[[Sequence[W]], float]


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """Calls to execute together, in the order in which they came.

    Attributes:
        weight: of all of them, in the unit of ``max_batch_size``.
        max_batch_size: the limit that it was closed under.
    """

    calls: list[W]
    reason: Reason
    weight: float
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class Decision(Generic[W]):
    """What to do now: fail the calls whose deadline has passed, execute the batches."""

    expired: list[W]
    batches: list[Batch[W]]


class _Line(Generic[W]):
    """The waiting calls of one kind, of which the first ``head`` are the next batch. Never empty once used.

    What is known of the line is kept up with each call that comes. A call that leaves only makes it ``stale``, to be
    looked through again at the next poll: thousands may leave at once.
    """

    __slots__ = (
        "_limits",
        "_wait_s",
        "_weigh",
        "calls",
        "due_at",
        "due_for",
        "expires_at",
        "full",
        "head",
        "limit",
        "stale",
        "weight",
    )

    def __init__(self, limits: BatchLimits, weigh: Weigh[W] | None) -> None:
        self._limits = limits
        self._weigh = weigh
        self.calls: OrderedDict[W, None] = OrderedDict()
        self._open()

    def _open(self) -> None:
        self.limit = self._limits.max_batch_size
        self._wait_s = self._limits.batch_wait_timeout_s
        self.measure()

    def measure(self) -> None:
        """Find out anew how large the next batch is, and when it closes."""
        self.stale = False
        self.head = 0
        self.weight = 0.0
        self.full = False
        self.due_at = next(iter(self.calls)).arrived + self._wait_s if self.calls else inf
        self.due_for = Reason.TIMEOUT
        self.expires_at = inf
        self._grow()
        for call in self.calls:
            if call.deadline != inf:
                self._heed(call)

    def _grow(self) -> None:
        while not self.full and self.head < len(self.calls):
            weight = self._weigh(list(islice(self.calls, self.head + 1))) if self._weigh else self.head + 1
            if weight > self.limit and self.head:
                self.full = True
            else:
                self.head += 1
                self.weight = weight
                self.full = weight >= self.limit

    def _heed(self, call: W) -> None:
        """A call behind the head may hurry a line, too: the head is full then, and closes as soon as it can."""
        self.expires_at = min(self.expires_at, call.deadline)
        if call.close_by < self.due_at:
            self.due_at = call.close_by
            self.due_for = Reason.DEADLINE

    def add(self, call: W) -> None:
        self.calls[call] = None
        if self.stale:
            return
        if len(self.calls) == 1:
            self.due_at = call.arrived + self._wait_s
        self._grow()
        self._heed(call)

    def remove(self, call: W) -> None:
        if call in self.calls:
            del self.calls[call]
            self.stale = True

    def close(self, now: float) -> Batch[W]:
        reason = Reason.FULL if self.full else self.due_for if self.due_at <= now else Reason.DRAINED
        batch = Batch(list(islice(self.calls, self.head)), reason, self.weight, self.limit)
        for call in batch.calls:
            del self.calls[call]
        self._open()
        return batch


class BatchPlan(Generic[W]):
    """The lines, and how many batches run.

    Args:
        limits: shared with who may change them.
        pace: shared with all plans of the same code.
        weigh: the weight of some calls together, must not raise; None counts them.
    """

    def __init__(self, limits: BatchLimits, pace: Pace, weigh: Weigh[W] | None = None) -> None:
        self._limits = limits
        self._pace = pace
        self._weigh = weigh
        self._lines: dict[Hashable, _Line[W]] = {}
        self._draining = False
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many calls are in no batch yet."""
        return sum(len(line.calls) for line in self._lines.values())

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing runs."""
        return not self._lines and not self.running

    # --- events -----------------------------------------------------------------------------------------

    def add(self, call: W, now: float) -> None:
        """A call has come."""
        call.arrived = now
        if call.deadline != inf:
            halfway = now + (call.deadline - now) / 2
            call.close_by = min(halfway, call.deadline - _EXECUTIONS_OF_TIME_LEFT * self._pace.typical_s)
        line = self._lines.get(call.kind)
        if line is None:
            line = self._lines[call.kind] = _Line(self._limits, self._weigh)
        line.add(call)

    def remove(self, call: W) -> None:
        """Its caller waits no longer. Nothing happens when it is in no line any more."""
        line = self._lines.get(call.kind)
        if line is not None:
            line.remove(call)
            self._forget_if_empty(call.kind)

    def ended(self) -> None:
        """One of the batches that ran."""
        self.running -= 1

    def drain(self) -> None:
        """From now on nothing waits to be joined by others."""
        self._draining = True

    # --- decisions --------------------------------------------------------------------------------------

    def poll(self, now: float) -> Decision[W]:
        """What is to be done after these events, at this time. The batches count as running."""
        self._look_through_stale_lines()
        expired = self._take_expired(now)
        batches: list[Batch[W]] = []
        while self.running < self._limits.max_concurrent_batches:
            due = [kind for kind, line in self._lines.items() if self._draining or line.full or line.due_at <= now]
            if not due:
                break
            first = min(due, key=lambda kind: self._lines[kind].due_at)
            batches.append(self._lines[first].close(now))
            self._forget_if_empty(first)
            self.running += 1
        return Decision(expired, batches)

    def _look_through_stale_lines(self) -> None:
        for line in self._lines.values():
            if line.stale:
                line.measure()

    def _take_expired(self, now: float) -> list[W]:
        lines = [line for line in self._lines.values() if line.expires_at <= now]
        expired = [call for line in lines for call in line.calls if call.deadline <= now]
        for call in expired:
            self.remove(call)
        self._look_through_stale_lines()
        return expired

    def _forget_if_empty(self, kind: Hashable) -> None:
        if not self._lines[kind].calls:
            del self._lines[kind]

    def wake_at(self) -> float:
        """When time alone makes a difference next, as of the latest poll; ``inf`` when it makes none."""
        can_start = self.running < self._limits.max_concurrent_batches
        times = (min(line.expires_at, line.due_at if can_start else inf) for line in self._lines.values())
        return min(times, default=inf)
