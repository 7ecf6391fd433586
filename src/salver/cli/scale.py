"""``salver scale``: another number of replicas."""

from __future__ import annotations

import click

from salver.cli.deployment_path import deployment_path
from salver.cli.instance_option import control_of, control_options
from salver.cli.output import say


@click.command()
@click.argument("deployment", metavar="APP/DEPLOYMENT", type=deployment_path)
@click.argument("replicas", metavar="N", type=click.IntRange(0))
@control_options
def scale(deployment: tuple[str, str], replicas: int, instance: str | None) -> None:
    """\b
    Give a deployment N replicas, until it is deployed with another number.

    \b
    Examples:
      salver scale default/Translator 3

    For applications with external_scaler_enabled: true; the number of others is said by their code or config file.
    """
    app, name = deployment
    control_of(instance).scale(app, name, replicas)
    say(f"{app}/{name} gets {replicas} replica{'' if replicas == 1 else 's'}.")
