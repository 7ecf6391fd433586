"""What people read: the targets with what was measured, and a table for each workload."""

from __future__ import annotations

from pathlib import Path

from peers import PEERS
from results import Cell, Results, median_of, shown
from targets import TARGETS, Target
from workloads import WORKLOADS, Workload

BEGIN, END = "<!-- benchmarks/compare begin -->", "<!-- benchmarks/compare end -->"
MISSED, MET = "✗ missed", "✓"
README_ROWS = (
    ("no-op, 64 connections, requests/s", "noop", "per_s_64"),
    ("no-op, one connection, p50 in ms", "noop", "p50_ms_1"),
    ("ingress → child, 64 connections, requests/s", "composed", "per_s_64"),
    ("server-sent events, chunks/s", "stream_50", "chunks_per_s"),
    ("batches over a 5 ms model, requests/s", "batch", "per_s_64"),
    ("10 MB array through a handle, GB/s", "array", "gb_per_s"),
    ("start to the first 200, s", "start", "first_200_s"),
    ("memory, one replica (PSS, MB)", "footprint", "pss_mb_1"),
    ("memory, eight replicas (PSS, MB)", "footprint", "pss_mb_8"),
    ("idle CPU, eight replicas (% of a core)", "footprint", "idle_percent_8"),
)
README_PEERS = ("salver", "ray-tuned", "ray", "mosec", "litserve", "bentoml", "fastapi", "uvicorn")


def full(results: Results) -> str:
    """The whole report in Markdown."""
    parts = [
        "# Salver side by side",
        about(results),
        "## Targets",
        targets(results),
        *(f"## {WORKLOADS[name].title}\n\n{workload(WORKLOADS[name], results)}" for name in _measured(results)),
        "## Who ran, and how",
        settings(results),
    ]
    return "\n\n".join(parts) + "\n"


def _measured(results: Results) -> list[str]:
    """In the order of the table, whatever the order in which they ran."""
    return [name for name in WORKLOADS if any(any(cell.samples) for cell in results.cells.get(name, {}).values())]


def about(results: Results) -> str:
    machine = results.machine
    return (
        f"{machine.date} · {machine.processor}, {machine.cores} cores, {machine.memory_gb} GB, {machine.system} · "
        f"load average before: {machine.load_average} · wrk {machine.wrk or 'missing'}\n\n"
        f"Medians of {results.rounds} interleaved {'round' if results.rounds == 1 else 'rounds'}, "
        f"{results.seconds:g} s for each load; a ratio is the median of each round's own. "
        "In brackets: least and most. “–”: cannot be expressed there, or failed (the reasons are below the tables)."
    )


def targets(results: Results) -> str:
    """Each promise, what was measured, and whether it is kept."""
    lines = ["| workload | target | measured | |", "|---|--:|--:|---|"]
    lines += [
        f"| {target.what} | {target.goal} | {target.said(results)} | {_verdict(target, results)} |"
        for target in TARGETS
        if target.measured(results) is not None
    ]
    return "\n".join(lines)


def _verdict(target: Target, results: Results) -> str:
    return MET if target.met(results) else MISSED


def missed(results: Results) -> list[Target]:
    """Those that were measured and are not kept."""
    return [target for target in TARGETS if target.met(results) is False]


def workload(record: Workload, results: Results) -> str:
    """How it was measured, and a row for each peer."""
    first, *others = record.columns
    lines = [
        record.how,
        "",
        "| | " + " | ".join(record.columns.values()) + " |",
        "|---|" + "--:|" * len(record.columns),
    ]
    remarks: list[str] = []
    for peer, cell in _in_order(results.cells[record.name]):
        numbers = [_with_range(results, record.name, peer, first)]
        numbers += [shown(results.middle(record.name, peer, metric)) for metric in others]
        lines.append(f"| {PEERS[peer].title} | " + " | ".join(numbers) + " |")
        if cell.why_not or cell.error:
            remarks.append(f"{PEERS[peer].title}: {cell.why_not or cell.error[:200]}.")
    return "\n".join([*lines, "", *([" ".join(remarks), ""] if remarks else [])]).rstrip()


def _in_order(cells: dict[str, Cell]) -> list[tuple[str, Cell]]:
    return [(peer, cells[peer]) for peer in PEERS if peer in cells]


def _with_range(results: Results, workload: str, peer: str, metric: str) -> str:
    values = [value for value in results.series(workload, peer, metric) if value is not None]
    if len(values) < 2:
        return shown(median_of(values))
    return f"{shown(median_of(values))} ({shown(min(values))}–{shown(max(values))})"


def settings(results: Results) -> str:
    lines = ["| | how | versions |", "|---|---|---|"]
    for peer, how in results.settings.items():
        versions = ", ".join(f"{name} {number}" for name, number in results.versions.get(peer, {}).items())
        lines.append(f"| {PEERS[peer].title} | {how} | {versions or '–'} |")
    return "\n".join(lines)


def compact(results: Results) -> str:
    """A table for a README: the headline numbers, a column for each peer that was measured."""
    peers = [
        peer
        for peer in README_PEERS
        if any(peer in cells and any(cells[peer].samples) for cells in results.cells.values())
    ]
    lines = ["| | " + " | ".join(PEERS[peer].title for peer in peers) + " |", "|---|" + "--:|" * len(peers)]
    for what, workload_name, metric in README_ROWS:
        numbers = [shown(results.middle(workload_name, peer, metric)) for peer in peers]
        if any(number != "–" for number in numbers):
            lines.append(f"| {what} | " + " | ".join(numbers) + " |")
    machine = results.machine
    medians = "one round" if results.rounds == 1 else f"medians of {results.rounds} rounds"
    lines += [
        "",
        f"{machine.processor}, {machine.cores} cores, {machine.date[:10]}; {medians}, {results.seconds:g} s each.",
    ]
    return "\n".join(lines)


def write_between_markers(path: Path, text: str) -> None:
    """Replaces what is between the markers. Raises ValueError when they are not there, each once and in order."""
    page = path.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} needs the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
