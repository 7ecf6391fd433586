"""What every process of the instance has counted: the latest snapshot of each, and what those that are gone had.

A process is named by its pushes and present while a connection is that has carried one. When it is gone its gauges go
with it, and its counters and histograms stay in the totals without the ``replica`` tag, so that the sum over a
deployment never goes down. A process whose connection only broke is present again with its next push, which holds
everything, so it is not counted twice: for that the last ones gone are kept apart for a while.

Snapshots stay encoded until somebody asks. A controller that was started again has what its processes push to it,
without the totals of those that were gone before: those who plot such values know that they begin anew at times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import add

import msgspec
from msgspec import Struct

from salver.telemetry.metrics import MOST_FAMILIES, MOST_LABEL_SETS, OTHER, FamilySnapshot, MetricKind, Registry

logger = logging.getLogger("salver.controller")

MOST_SNAPSHOT_BYTES = 8 * 1024 * 1024
"""Of one process; a larger one is not taken."""

_GONE_KEPT_APART = 64
_decoder = msgspec.msgpack.Decoder(tuple[FamilySnapshot, ...])

Tags = tuple[tuple[str, str], ...]
"""Names and values, those without a value left out."""


class MetricSeries(Struct, frozen=True, omit_defaults=True):
    """One series, as the control API shows it.

    Attributes:
        value: of a counter or gauge.
        sum, count: of all observations of a histogram.
        buckets: how many of them each bucket has by itself; there is one more than boundaries, for what is above.
    """

    tags: dict[str, str]
    value: float | None = None
    sum: float | None = None
    count: int | None = None
    buckets: tuple[int, ...] | None = None


class MetricFamily(Struct, frozen=True):
    """All series of one name; a histogram with other boundaries under the same name is another family."""

    name: str
    type: MetricKind
    description: str
    boundaries: tuple[float, ...]
    series: tuple[MetricSeries, ...]


class MetricsStore:
    """The metrics of one instance.

    Args:
        own: what this process counts itself.
    """

    def __init__(self, own: Registry) -> None:
        self._own = own
        self._processes: dict[object, str] = {}
        self._present: dict[str, bytes] = {}
        self._gone: dict[str, bytes] = {}
        self._totals = _Totals(bounded=True)

    def received(self, connection: object, process: str, snapshot: bytes) -> None:
        """A process has pushed.

        Args:
            connection: by which it came; ``lost`` is told of the same.
            process: its name, which no other process of this instance has or had.
        """
        if len(snapshot) > MOST_SNAPSHOT_BYTES:
            if self._present.get(process) != b"":  # said once
                logger.warning("process %s has %d bytes of metrics: too many", process, len(snapshot))
            snapshot = b""
        self._processes[connection] = process
        self._gone.pop(process, None)
        self._present[process] = snapshot

    def lost(self, connection: object) -> None:
        """A connection has ended; one that never carried a push is fine."""
        process = self._processes.pop(connection, None)
        if process is None or process in self._processes.values():
            return
        self._gone[process] = self._present.pop(process)
        if len(self._gone) > _GONE_KEPT_APART:
            oldest = next(iter(self._gone))
            self._totals.add(_decoded(oldest, self._gone.pop(oldest)), gone=True)

    def families(self) -> tuple[MetricFamily, ...]:
        """Everything, added up over processes where tags are the same, sorted by name."""
        everything = _Totals()
        everything.merge(self._totals)
        for process, snapshot in self._gone.items():
            everything.add(_decoded(process, snapshot), gone=True)
        for process, snapshot in self._present.items():
            everything.add(_decoded(process, snapshot))
        everything.add(self._own.snapshot())
        return everything.families()


def _decoded(process: str, snapshot: bytes) -> tuple[FamilySnapshot, ...]:
    if not snapshot:
        return ()
    try:
        return _decoder.decode(snapshot)
    except msgspec.DecodeError as error:
        logger.warning("the metrics of process %s cannot be read: %s", process, error)
        return ()


class _Totals:
    """Families added up.

    Args:
        bounded: it grows for as long as the controller lives: no more families, and label sets of one, than a
            process may have.
    """

    def __init__(self, *, bounded: bool = False) -> None:
        self._bounded = bounded
        self._descriptions: dict[tuple[str, MetricKind, tuple[float, ...]], str] = {}
        self._series: dict[tuple[str, MetricKind, tuple[float, ...]], dict[Tags, tuple[float, ...]]] = {}

    def add(self, families: Iterable[FamilySnapshot], *, gone: bool = False) -> None:
        for family in families:
            if gone and family.kind == "gauge":
                continue
            key = (family.name, family.kind, family.boundaries)
            if self._bounded and key not in self._series and len(self._series) >= MOST_FAMILIES:
                continue
            self._descriptions.setdefault(key, family.description)
            into = self._series.setdefault(key, {})
            for series in family.series:
                named = zip(family.label_names, series.labels, strict=True)
                tags = tuple((name, value) for name, value in named if value and not (gone and name == "replica"))
                self._add_series(into, tags, series.values)

    def merge(self, other: _Totals) -> None:
        for key, series in other._series.items():
            self._descriptions.setdefault(key, other._descriptions[key])
            into = self._series.setdefault(key, {})
            for tags, values in series.items():
                self._add_series(into, tags, values)

    def _add_series(self, into: dict[Tags, tuple[float, ...]], tags: Tags, values: tuple[float, ...]) -> None:
        if self._bounded and tags not in into and len(into) >= MOST_LABEL_SETS:
            tags = tuple((name, OTHER) for name, _ in tags)
        known = into.get(tags)
        into[tags] = values if known is None else tuple(map(add, known, values))

    def families(self) -> tuple[MetricFamily, ...]:
        return tuple(
            MetricFamily(name, kind, self._descriptions[name, kind, boundaries], boundaries, _shown(kind, series))
            for (name, kind, boundaries), series in sorted(self._series.items(), key=lambda item: item[0])
        )


def _shown(kind: MetricKind, series: dict[Tags, tuple[float, ...]]) -> tuple[MetricSeries, ...]:
    if kind != "histogram":
        return tuple(MetricSeries(dict(tags), values[0]) for tags, values in series.items())
    shown: list[MetricSeries] = []
    for tags, (total, *counts) in series.items():
        buckets = tuple(map(int, counts))
        shown.append(MetricSeries(dict(tags), sum=total, count=sum(buckets), buckets=buckets))
    return tuple(shown)
