"""What commands print: data on stdout, talk on stderr, colour only where a person looks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from salver.serve.schema import DeploymentStatusOverview, ServeStatus


def fail(message: str, code: int) -> NoReturn:
    """One sentence on stderr, then out."""
    click.echo(f"{click.style('Error:', fg='red')} {message}", err=True)
    sys.exit(code)


def show_status(status: ServeStatus, *, err: bool = False) -> None:
    """A table of deployments."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("APPLICATION", "DEPLOYMENT", "STATUS", "REPLICAS", "ROUTE", "RESOURCES"):
        table.add_column(column, no_wrap=column != "RESOURCES")
    for name, application in status.applications.items():
        for deployment_name, deployment in application.deployments.items():
            running = deployment.replica_states.get("RUNNING", 0)
            table.add_row(
                name,
                deployment_name,
                deployment.status.value,
                f"{running}/{deployment.target_num_replicas}",
                application.route_prefix or "-",
                _resources(deployment),
            )
    Console(stderr=err, highlight=False).print(table)


def _resources(deployment: DeploymentStatusOverview) -> str:
    """``0.2 CPU, 1 GPU``, as the user stated them."""
    stated: dict[str, Any] = deployment.options.get("ray_actor_options") or {}
    custom: dict[str, float] = stated.get("resources") or {}
    parts = [
        f"{stated[key]:g} {label}" for key, label in (("num_cpus", "CPU"), ("num_gpus", "GPU")) if stated.get(key)
    ]
    parts += [f"{amount:g} {name}" for name, amount in custom.items()]
    return ", ".join(parts) or "-"
