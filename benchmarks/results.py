"""What was measured: every sample of every round, where it comes from, and as JSON. Names no folder, user or host."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from load import wrk_version

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Machine:
    """Taken before the first measurement, so that the load is not our own."""

    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    load_average: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))
    """Of the minute before. Above 0.3 or so, others were busy: measure again."""
    processor: str = field(default_factory=lambda: _processor())
    cores: int | None = field(default_factory=psutil.cpu_count)
    memory_gb: float = field(default_factory=lambda: round(psutil.virtual_memory().total / 1e9, 1))
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.release().split('-')[0]}")
    wrk: str | None = field(default_factory=wrk_version)


@dataclass(slots=True)
class Cell:
    """One workload on one peer.

    Attributes:
        samples: by round; None for a round in which it was not measured or failed.
        error: the last failure.
        why_not: why it cannot be measured at all.
    """

    samples: list[Sample | None] = field(default_factory=list[Sample | None])
    error: str = ""
    why_not: str = ""


@dataclass(slots=True)
class Results:
    """Everything, as it is saved.

    Attributes:
        rounds: how many were wanted.
        seconds: of one load.
        versions: by peer and distribution.
        settings: by peer: how it was configured.
        cells: by workload and peer.
    """

    machine: Machine
    rounds: int
    seconds: float
    versions: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    settings: dict[str, str] = field(default_factory=dict[str, str])
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict[str, dict[str, Cell]])

    def cell(self, workload: str, peer: str) -> Cell:
        return self.cells.setdefault(workload, {}).setdefault(peer, Cell([None] * self.rounds))

    def series(self, workload: str, peer: str, metric: str) -> list[float | None]:
        """One number for each round; None where there is none."""
        cell = self.cells.get(workload, {}).get(peer)
        if cell is None:
            return [None] * self.rounds
        return [None if sample is None else sample.get(metric) for sample in cell.samples]

    def middle(self, workload: str, peer: str, metric: str) -> float | None:
        """The median over the rounds."""
        return median_of(self.series(workload, peer, metric))

    def save(self, path: Path, extra: dict[str, Any]) -> None:
        """Replaces the file in one go: a run that is interrupted leaves a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = json.dumps(asdict(self) | extra, indent=1, ensure_ascii=False)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(document + "\n")
        temporary.replace(path)


def load(path: Path) -> Results:
    """What `save` has written."""
    document = json.loads(path.read_text())
    return Results(
        Machine(**document["machine"]),
        document["rounds"],
        document["seconds"],
        document["versions"],
        document["settings"],
        {
            workload: {peer: Cell(**cell) for peer, cell in cells.items()}
            for workload, cells in document["cells"].items()
        },
    )


def median_of(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None when none is."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def ratio_of(ours: Iterable[float | None], theirs: Iterable[float | None]) -> float | None:
    """The median of each round's own ratio: a machine that is slow in one round is slow for both."""
    pairs = zip(ours, theirs, strict=True)
    return median_of(our / their if our is not None and their else None for our, their in pairs)


def difference_of(ours: Iterable[float | None], theirs: Iterable[float | None]) -> float | None:
    """The same for differences."""
    pairs = zip(ours, theirs, strict=True)
    return median_of(our - their if our is not None and their is not None else None for our, their in pairs)


def shown(value: float | None) -> str:
    """Three significant digits; thousands with commas; "–" for nothing."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
