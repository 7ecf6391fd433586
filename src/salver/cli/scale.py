"""``salver scale``: another number of replicas."""

from __future__ import annotations

from collections.abc import Iterable

import click

from salver.cli.deployment_path import deployment_path
from salver.cli.instance_option import control_of, control_options
from salver.cli.output import say
from salver.views import ApplicationView


@click.command()
@click.argument("deployment", metavar="APP/DEPLOYMENT", type=deployment_path)
@click.argument("replicas", metavar="N", type=click.IntRange(0))
@control_options
def scale(deployment: tuple[str, str], replicas: int, instance: str | None) -> None:
    """\b
    Give a deployment N replicas, until its application is deployed again.

    \b
    Examples:
      salver scale default/Translator 3

    For applications with external_scaler_enabled: true; the number of others is said by their code or config file.
    Any deploy returns to the number that these say, also one that changes nothing. Where a target_capacity is set,
    it gets that share of N.
    """
    app, name = deployment
    control = control_of(instance)
    control.scale(app, name, replicas)
    status = control.status()
    gets = _target_of(status.applications, app, name, replicas)
    percent = status.target_capacity
    share = "" if gets == replicas or percent is None else f": {replicas} at a target_capacity of {percent:g}%"
    say(f"{app}/{name} gets {gets} replica{'' if gets == 1 else 's'}{share}.")


def _target_of(views: Iterable[ApplicationView], app: str, name: str, asked: int) -> int:
    """How many there are to be now; what was ``asked`` if it was deleted meanwhile."""
    found = (each for view in views if view.name == app for each in view.deployments if each.name == name)
    return next((each.target_num_replicas for each in found), asked)
