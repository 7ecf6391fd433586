"""``salver events``: what has happened to an instance's applications, and why."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from salver.cli.deployment_path import application_or_deployment
from salver.cli.instance_option import control_of, control_options
from salver.cli.output import say

if TYPE_CHECKING:
    from salver.views import Happening

_WAIT_S = 30.0


@click.command()
@click.argument("of", metavar="[APP[/DEPLOYMENT]]", type=application_or_deployment, default="")
@click.option("-f", "--follow", is_flag=True, help="Stay, and print what happens next.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@control_options
def events(of: tuple[str, str], follow: bool, as_json: bool, instance: str | None) -> None:
    """\b
    Show deploys, scale decisions, ends of replicas, with their reasons.

    \b
    Examples:
      salver events
      salver events default/Translator --follow
      salver events --json | jq 'select(.kind == "scale")'
    """
    from salver.controller.client import ControlUnreachable

    control = control_of(instance)
    app, deployment = of
    after = _print(control.events(0, 0.0, app, deployment), 0, as_json=as_json)
    if not after and app:
        say(f"Nothing is known to have happened to {'/'.join(filter(None, of))}.")
    while follow:
        try:
            after = _print(control.events(after, _WAIT_S, app, deployment), after, as_json=as_json)
        except ControlUnreachable:
            say("The instance has ended.")
            return


def _print(happenings: tuple[Happening, ...], after: int, *, as_json: bool) -> int:
    """Print them; the number of the last one."""
    import msgspec

    for happening in happenings:
        click.echo(msgspec.json.encode(happening).decode() if as_json else _line(happening))
        after = max(after, happening.number)
    return after


def _line(happening: Happening) -> str:
    """``2026-11-22 19:20:01 scale    default/Model: 1 to 3 replicas: ...``"""
    when = datetime.fromtimestamp(happening.at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    about = happening.replica_id or "/".join(filter(None, (happening.app, happening.deployment)))
    return f"{when} {happening.kind:<12} {about}{': ' if about else ''}{happening.message}"
