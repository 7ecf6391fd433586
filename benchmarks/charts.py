"""Charts as SVG: small, the same bytes for the same numbers, readable on light and on dark pages.

The background is transparent and text is text, in a grey that reads on both. `bars` and `lines` know nothing of
workloads; `draw` knows which ones are worth a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import Results, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, GRID, OURS, THEIRS = "#808080", "#80808040", "#1f9d8a", "#8c9aab"
PALETTE = (OURS, "#d9822b", "#7a6ff0", "#c44e7c", "#5b8dd9", "#9a9a3c")
ROW_INCHES, WIDTH_INCHES, LINES_HEIGHT_INCHES = 0.32, 7.2, 3.4
CHARTS: tuple[tuple[str, str, str, str], ...] = (
    ("noop", "per_s_64", "No-op, 64 connections: requests per second", "noop"),
    ("noop", "p50_ms_1", "No-op, one connection: median latency in ms", "latency"),
    ("composed", "per_s_64", "Ingress → child, 64 connections: requests per second", "composed"),
    ("fastapi", "per_s_64", "FastAPI ingress → child: requests per second", "fastapi"),
    ("stream_50", "chunks_per_s", "Server-sent events: chunks per second", "streams"),
    ("batch", "per_s_64", "Batches of 16 over a 5 ms model: requests per second", "batch"),
    ("array", "gb_per_s", "10 MB array through a handle: GB per second", "array"),
    ("start", "first_200_s", "Start to the first 200: seconds", "start"),
    ("footprint", "pss_mb_1", "Memory of all processes, one replica: MB (PSS)", "memory"),
)


def draw(results: Results, titles: Mapping[str, str], folder: Path) -> list[Path]:
    """Every chart that there are numbers for; `titles` are those of the peers, in their order."""
    paths: list[Path] = []
    for workload, metric, title, name in CHARTS:
        values = {titles[peer]: results.middle(workload, peer, metric) for peer in titles}
        there = {title_: value for title_, value in values.items() if value is not None}
        if there:
            paths.append(bars(title, there, folder / f"{name}.svg", ours=titles["salver"]))
    return paths


def bars(title: str, values: Mapping[str, float], path: Path, *, ours: str) -> Path:
    """A bar for each name with its value beside it, in the order given; ours stands out."""
    figure, axes = _figure(ROW_INCHES * (len(values) + 1) + 0.3)
    names = list(values)
    colours = [OURS if name == ours else THEIRS for name in names]
    axes.barh(names, list(values.values()), color=colours, height=0.7)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values.values()) * 1.15 or 1)
    axes.xaxis.set_visible(False)
    for name, value in values.items():
        axes.annotate(shown(value), (value, name), (4, 0), textcoords="offset points", va="center", color=TEXT)
    axes.tick_params(left=False)
    return _save(figure, axes, title, path)


def lines(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
) -> Path:
    """How values grow with x, which is on a logarithmic axis; a series may have gaps."""
    figure, axes = _figure(LINES_HEIGHT_INCHES)
    for (name, values), colour in zip(series.items(), PALETTE, strict=False):
        points = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{at:,g}" for at in x])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.6)
    axes.set_xlabel(xlabel, color=TEXT)
    axes.set_ylabel(ylabel, color=TEXT)
    axes.legend(frameon=False, labelcolor=TEXT)
    return _save(figure, axes, title, path)


def _figure(height: float) -> tuple[Any, Axes]:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "salver", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Axes, title: str, path: Path) -> Path:
    axes.set_title(title, loc="left", color=TEXT, fontsize=10)
    axes.tick_params(colors=TEXT)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(GRID)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return path
