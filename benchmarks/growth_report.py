"""What people read of `benchmarks/growth`: a table and a chart for each series."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from growth_series import SERIES, Series
from report import about
from results import Results, ratio_of, shown

CHARTED = (("cpu_us", 1e-3, "CPU per request"), ("p50_ms", 1.0, "median latency"), ("p99_ms", 1.0, "p99"))

CONDITIONS = (
    "All loads but the closed loops: {rate} with Poisson arrivals. CPU: of all processes of the instance, over the "
    "requests that they answered."
)


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [
        "# What grows, and how much",
        about(results),
        CONDITIONS.format(rate=results.settings["rate"]),
        *(f"## {series.title}\n\n{_table(name, series, results)}" for name, series in _measured(results)),
    ]
    return "\n\n".join(parts) + "\n"


def draw(results: Results, folder: Path) -> list[Path]:
    """`growth-replicas.svg` and so on: latency and CPU per request, both in ms."""
    import charts

    paths: list[Path] = []
    for name, series in _measured(results):
        points = [point for point in series.points if _has(results, name, point)]
        values = {
            label: [
                None if (value := results.middle(name, str(point), metric)) is None else scale * value
                for point in points
            ]
            for metric, scale, label in CHARTED
        }
        path = folder / f"growth-{name}.svg"
        paths.append(charts.lines(series.title, points, values, path, xlabel=series.unit, ylabel="ms"))
    return paths


def _measured(results: Results) -> Iterable[tuple[str, Series]]:
    return [
        (name, series)
        for name, series in SERIES.items()
        if any(_has(results, name, point) for point in series.points)
    ]


def _has(results: Results, name: str, point: int) -> bool:
    cell = results.cells.get(name, {}).get(str(point))
    return cell is not None and any(cell.samples)


def _table(name: str, series: Series, results: Results) -> str:
    heads = [series.unit, *series.columns.values()]
    lines = [series.how, "", "| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    remarks: list[str] = []
    for point in series.points:
        cell = results.cells.get(name, {}).get(str(point))
        if cell is None:
            continue
        numbers = [shown(results.middle(name, str(point), metric)) for metric in series.columns]
        lines.append(f"| {point:,} | " + " | ".join(numbers) + " |")
        if cell.error:
            remarks.append(f"{point:,}: {cell.error[:200]}.")
    return "\n".join([*lines, "", _growth(name, series, results), *remarks]).rstrip()


def _growth(name: str, series: Series, results: Results) -> str:
    """From the first point to the last that was measured, in CPU, which a busy machine blurs least."""
    points = [str(point) for point in series.points if _has(results, name, point)]
    first, last = points[0], points[-1]
    factor = ratio_of([results.middle(name, last, "cpu_us")], [results.middle(name, first, "cpu_us")])
    return f"CPU per request from {first} to {last}: × {shown(factor)}."
