"""What a benchmark writes: a table for people, the same numbers and every sample as JSON, and where they come from.

Nothing in a report names a folder, a user or a host: results are committed.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from wrk import wrk_version

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("salver", "uvicorn", "uvloop", "httptools", "msgspec", "starlette")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `value` and `target` come as they are to be read, units included."""

    what: str
    value: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What one benchmark found."""

    title: str
    how: str
    """The conditions, in a sentence or two."""
    rows: list[Row]
    numbers: dict[str, Any]
    """The figures behind the rows, every sample among them; names end in their unit."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine and the software; taken when the benchmark starts, so that the load is not its own."""

    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    load_average: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))
    """Of the minute before the first measurement. Above 0.3 or so, others were busy: measure again."""
    processor: str = field(default_factory=lambda: _processor())
    cores: int | None = field(default_factory=psutil.cpu_count)
    memory_gb: float = field(default_factory=lambda: round(psutil.virtual_memory().total / 1e9, 1))
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.release().split('-')[0]}")
    versions: dict[str, str | None] = field(default_factory=lambda: _versions())


def write(name: str, environment: Environment, sections: list[Section], folder: Path) -> None:
    """Writes `name.json` and `name.md` into `folder`, and prints the table."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown = _markdown(environment, sections)
    document = {"environment": asdict(environment), "sections": [asdict(section) for section in sections]}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (folder / f"{name}.md").write_text(markdown)
    print(markdown)


def _markdown(environment: Environment, sections: list[Section]) -> str:
    machine = f"{environment.processor}, {environment.cores} cores, {environment.memory_gb} GB, {environment.system}"
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    lines = [
        "# Benchmark results",
        "",
        f"{environment.date} · load average before: {environment.load_average}",
        "",
        f"{machine} · {versions}",
        "",
    ]
    for section in sections:
        lines += [f"## {section.title}", "", section.how, "", "| what | measured | target |", "|---|--:|--:|"]
        lines += [f"| {row.what} | {row.value} | {row.target} |" for row in section.rows]
        lines.append("")
    return "\n".join(lines)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str | None]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, "wrk": wrk_version()}
