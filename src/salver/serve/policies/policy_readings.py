"""What replicas' ``record_autoscaling_stats`` have returned during the look-back period, as policies see it.

They are kept with monotonic times, so that a wall clock that is set makes none of them old, or young for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from salver.controller.policy_messages import Reading
from salver.serve.context import ReplicaID
from salver.serve.policies.autoscaling_context import TimeStampedValue

_MOST_VALUES = 1000
_AGGREGATES: Mapping[str, Callable[[Iterable[float]], float]] = {"mean": fmean, "max": max, "min": min}

RawMetrics = dict[str, dict[ReplicaID, list[TimeStampedValue]]]


class Readings:
    """The numbers of one deployment's replicas: at most 1000 of each name and replica."""

    def __init__(self) -> None:
        self._values: dict[ReplicaID, dict[str, deque[TimeStampedValue]]] = {}

    def add(self, replica: ReplicaID, reading: Reading) -> None:
        """A replica has answered."""
        names = self._values.setdefault(replica, {})
        for name, value in reading.values.items():
            names.setdefault(name, deque(maxlen=_MOST_VALUES)).append(TimeStampedValue(reading.monotonic_s, value))

    def keep(self, replicas: Iterable[ReplicaID], since_s: float) -> None:
        """Forget other replicas, and what is older than this monotonic time."""
        kept = set(replicas)
        self._values = {replica: names for replica, names in self._values.items() if replica in kept}
        for names in self._values.values():
            for name, values in list(names.items()):
                while values and values[0].timestamp < since_s:
                    values.popleft()
                if not values:
                    del names[name]

    def raw(self, wall_clock_offset: float = 0.0) -> RawMetrics:
        """Every value, by name and replica, oldest first; wall time minus monotonic time is added to its time."""
        raw: RawMetrics = {}
        for replica, names in self._values.items():
            for name, values in names.items():
                at = raw.setdefault(name, {})
                at[replica] = [TimeStampedValue(each.timestamp + wall_clock_offset, each.value) for each in values]
        return raw

    def aggregated(self, how: str) -> dict[str, dict[ReplicaID, float]]:
        """The ``mean``, ``max`` or ``min`` of each, by name and replica."""
        aggregate = _AGGREGATES[how]
        return {
            name: {replica: aggregate(each.value for each in values) for replica, values in replicas.items()}
            for name, replicas in self.raw().items()
        }
