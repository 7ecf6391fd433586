"""Counters, gauges and histograms of this process: cheap to update, bounded, and read as one record.

A *family* is a name with label names; a *series* is one set of label values of it, and is what code updates. Whoever
updates often finds the series once (``family.series(values)``) and keeps it.

Any thread may update. Every family has one lock, held for one addition: an addition is not atomic by itself, neither
in an interpreter without the GIL nor, by any promise, in one with it. It is reentrant, since the collector may run a
user's ``__del__``, which may count something, while its thread holds it.

Values only ever accumulate, so whoever misses one snapshot has lost nothing when the next one comes. ``changed`` is
the whole protocol with whoever sends them: an update, when it has written, sets it and tells the listener; a snapshot
clears it before it reads. While it is set updates tell nobody, and a process that changes nothing is never woken.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from msgspec import Struct

from salver.errors import ConfigurationError

logger = logging.getLogger("salver.telemetry")

MOST_LABEL_SETS = 1000
"""Label sets of one family; what comes later is counted together, every label being ``OTHER``."""

MOST_FAMILIES = 1000
"""Families of one process; later ones work, but nobody sees them."""

OTHER = "other"

LATENCY_BOUNDARIES_MS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 300.0, 400.0, 500.0),
    *(1_000.0, 2_000.0, 5_000.0, 10_000.0, 60_000.0, 120_000.0, 300_000.0, 600_000.0),
)
"""Upper bounds of latency buckets, in milliseconds: those of the reference, for the dashboards that exist."""

MetricKind = Literal["counter", "gauge", "histogram"]


class SeriesSnapshot(Struct, frozen=True, array_like=True):
    """One series.

    Attributes:
        labels: values, in the order of the family's label names.
        values: of a counter or gauge, its value; of a histogram, the sum, then how many observations each bucket
            has by itself, the last one being above all boundaries.
    """

    labels: tuple[str, ...]
    values: tuple[float, ...]


class FamilySnapshot(Struct, frozen=True, array_like=True):
    """One family; ``boundaries`` are a histogram's, ascending upper bounds that belong to their bucket."""

    name: str
    kind: MetricKind
    description: str
    label_names: tuple[str, ...]
    boundaries: tuple[float, ...]
    series: tuple[SeriesSnapshot, ...]


class Value:
    """One series of a counter or gauge."""

    __slots__ = ("_lock", "_registry", "value")

    def __init__(self, family: Family[Value]) -> None:
        self._registry = family.registry
        self._lock = family.lock
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            self.value += amount
        if not self._registry.changed:
            self._registry.tell()

    def add(self, amount: float = 1.0) -> None:
        """``inc`` for a series that only one thread ever changes: the lock would take most of the time."""
        self.value += amount
        if not self._registry.changed:
            self._registry.tell()

    def set(self, value: float) -> None:
        self.value = value
        if not self._registry.changed:
            self._registry.tell()

    def read(self) -> tuple[float, ...]:
        return (self.value,)


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_boundaries", "_counts", "_lock", "_registry", "_sum")

    def __init__(self, family: Family[Distribution]) -> None:
        self._registry = family.registry
        self._lock = family.lock
        self._boundaries = family.boundaries
        self._counts = [0] * (len(family.boundaries) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        bucket = bisect_left(self._boundaries, value)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += value
        if not self._registry.changed:
            self._registry.tell()

    def add(self, value: float) -> None:
        """``observe`` for a series that only one thread ever changes."""
        self._counts[bisect_left(self._boundaries, value)] += 1
        self._sum += value
        if not self._registry.changed:
            self._registry.tell()

    def read(self) -> tuple[float, ...]:
        with self._lock:
            return (self._sum, *self._counts)


SeriesT = TypeVar("SeriesT", Value, Distribution)


class Family(Generic[SeriesT]):
    """A metric's name and its series. Made by a ``Registry``."""

    def __init__(
        self,
        registry: Registry,
        kind: MetricKind,
        name: str,
        description: str,
        label_names: tuple[str, ...],
        boundaries: tuple[float, ...],
        kept: int,
        make: Callable[[Family[SeriesT]], SeriesT],
    ) -> None:
        self.registry = registry
        self.kind: MetricKind = kind
        self.name = name
        self.description = description
        self.label_names = label_names
        self.boundaries = boundaries
        self.lock = threading.RLock()
        self._kept = kept
        self._make = make
        self._series: dict[tuple[str, ...], SeriesT] = {}

    def series(self, labels: tuple[str, ...] = ()) -> SeriesT:
        """The series of these label values, one for each label name; made when it is new and there is room."""
        found = self._series.get(labels)
        return found if found is not None else self._add(labels)

    def _add(self, labels: tuple[str, ...]) -> SeriesT:
        assert len(labels) == len(self.label_names)
        with self.lock:
            if len(self._series) >= MOST_LABEL_SETS:
                labels = (*labels[: self._kept], *(OTHER for _ in labels[self._kept :]))
            found = self._series.get(labels)
            if found is None:
                found = self._series[labels] = self._make(self)
                if len(self._series) == MOST_LABEL_SETS + 1:
                    logger.warning(
                        "Metric '%s' has more than %d sets of tag values: further ones are counted together, "
                        "as '%s'. A tag should have few values: no ids, no addresses, no free text.",
                        self.name,
                        MOST_LABEL_SETS,
                        OTHER,
                    )
            return found

    def snapshot(self) -> FamilySnapshot:
        with self.lock:
            series = list(self._series.items())
        read = tuple(SeriesSnapshot(labels, each.read()) for labels, each in series)
        return FamilySnapshot(self.name, self.kind, self.description, self.label_names, self.boundaries, read)


FamilyKey = tuple[str, tuple[str, ...], tuple[float, ...]]
"""Name, label names and boundaries: two places of a program may use one name with different tags."""


class Registry:
    """Every family of a process, and whether something has changed since they were read."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[FamilyKey, Family[Value]] = {}
        self._distributions: dict[FamilyKey, Family[Distribution]] = {}
        self._kinds: dict[str, MetricKind] = {}
        self._listener: Callable[[], None] | None = None
        self._full = False
        self.changed = False

    def counter(
        self, name: str, description: str = "", label_names: tuple[str, ...] = (), *, kept: int = 0
    ) -> Family[Value]:
        """The counter of that name; the same one for the same name and labels.

        Args:
            kept: how many labels, the first ones, keep their value in the series for what finds no room. They must
                have few values.

        Raises:
            ConfigurationError: the name is taken by a metric of another kind.
        """
        return self._add(self._values, Family(self, "counter", name, description, label_names, (), kept, Value))

    def gauge(
        self, name: str, description: str = "", label_names: tuple[str, ...] = (), *, kept: int = 0
    ) -> Family[Value]:
        """As ``counter``."""
        return self._add(self._values, Family(self, "gauge", name, description, label_names, (), kept, Value))

    def histogram(
        self,
        name: str,
        description: str,
        boundaries: tuple[float, ...],
        label_names: tuple[str, ...] = (),
        *,
        kept: int = 0,
    ) -> Family[Distribution]:
        """As ``counter``; ``boundaries`` ascend."""
        family = Family(self, "histogram", name, description, label_names, boundaries, kept, Distribution)
        return self._add(self._distributions, family)

    def _add(self, known: dict[FamilyKey, Family[SeriesT]], family: Family[SeriesT]) -> Family[SeriesT]:
        key = (family.name, family.label_names, family.boundaries)
        with self._lock:
            if len(self._values) + len(self._distributions) >= MOST_FAMILIES and key not in known:
                if not self._full:
                    self._full = True
                    logger.warning(
                        "There are more than %d metrics: '%s' and later ones are not seen.",
                        MOST_FAMILIES,
                        family.name,
                    )
                return family
            kind = self._kinds.setdefault(family.name, family.kind)
            if kind != family.kind:
                raise ConfigurationError(
                    f"Metric '{family.name}' is a {kind} already, it cannot be a {family.kind} as well: rename one."
                )
            return known.setdefault(key, family)

    def snapshot(self) -> tuple[FamilySnapshot, ...]:
        """Everything, as it is now; families without series are left out. Clears ``changed``."""
        self.changed = False  # first: what changes while we read is then told again
        with self._lock:
            families = [*self._values.values(), *self._distributions.values()]
        return tuple(read for family in families if (read := family.snapshot()).series)

    def tell(self) -> None:
        """Something has changed."""
        self.changed = True
        if self._listener is not None:
            self._listener()

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Have ``listener`` called, by the thread that changed it, at the first change after each snapshot."""
        self._listener = listener


registry = Registry()
"""This process's."""
