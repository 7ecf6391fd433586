"""``salver controller-health``: whether the controller keeps up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from salver.cli.instance_option import control_of, control_options
from salver.records import JsonDict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from salver.serve.schema import ControllerHealthMetrics, DurationStats


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON, with Ray Serve's names.")
@control_options
def controller_health(as_json: bool, instance: str | None) -> None:
    """\b
    Show how the controller keeps up: its event loop, its decisions.

    \b
    Examples:
      salver controller-health
      salver controller-health --json | jq .event_loop_delay_stats_s.p99
    """
    details = control_of(instance).details()
    if as_json:
        click.echo(json.dumps(details["controller_health_metrics"], indent=2))
    else:
        _show(details)


def _show(details: JsonDict) -> None:
    from salver.cli.status_table import console, duration
    from salver.serve.schema import ControllerHealthMetrics

    health = ControllerHealthMetrics(**details["controller_health_metrics"])
    pid, up = details["controller_info"]["pid"], duration(health.uptime_s)
    screen = console()
    screen.print(f"Controller of {details['instance']} · pid {pid} · up {up}\n", highlight=False)
    screen.print(times_table(health))
    screen.print()
    screen.print(counts_table(health))


def times_table(health: ControllerHealthMetrics) -> RenderableType:
    """What takes time, in milliseconds, over the window that is remembered."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("MILLISECONDS")
    for column in ("MEAN", "P50", "P90", "P99", "MAX", "OF"):
        table.add_column(column, justify="right")
    table.add_row("event loop late", *_cells(health.event_loop_delay_stats_s))
    table.add_row("a decision takes", *_cells(health.loop_duration_s))
    table.add_row("age of load counts", *_cells(health.load_age_s))
    return table


def _cells(stats: DurationStats | None) -> list[str]:
    if stats is None:
        return ["-"] * 6
    times = (stats.mean, stats.p50, stats.p90, stats.p99, stats.max)
    return [*(f"{1000 * each:.2f}" for each in times), str(stats.count)]


def counts_table(health: ControllerHealthMetrics) -> RenderableType:
    """What is a number, or a sum."""
    from rich.table import Table

    from salver.cli.status_table import duration

    last = health.last_control_loop_time
    ago = "" if last is None else f", the last {duration(max(health.timestamp - last, 0.0))} ago"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("decisions", f"{health.num_control_loops} ({health.loops_per_second:.2g} a second{ago})")
    table.add_row("commands under way", str(health.num_commands))
    table.add_row("subscribers", str(health.num_subscribers))
    table.add_row("load reports", str(health.handle_reports_received))
    table.add_row("tasks", str(health.num_asyncio_tasks))
    table.add_row("memory", f"{health.process_memory_mb:.1f} MiB")
    of_a_core = health.cpu_s / max(health.uptime_s, 1e-9)
    table.add_row("processor time", f"{health.cpu_s:.2f} s ({of_a_core:.1%} of a core)")
    if health.num_unsaved_records:
        table.add_row("only in memory", f"{health.num_unsaved_records} events: the disk was full")
    return table
