"""``salver delete``: end one application."""

from __future__ import annotations

import click

from salver.cli.instance_option import control_of, control_options
from salver.cli.output import confirm, fail, say

_WITHIN_S = 60.0


@click.command()
@click.argument("app")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@control_options
def delete(app: str, yes: bool, instance: str | None) -> None:
    """\b
    Delete an application: its requests finish, then its replicas end.

    \b
    Examples:
      salver delete default
      salver delete default --yes            from a script with a terminal
    """
    control = control_of(instance)
    names = [view.name for view in control.status().applications]
    if app not in names:
        fail(f"There is no application '{app}'.{' There are: ' + ', '.join(names) + '.' if names else ''}", 1)
    confirm(f"Delete application {app}?", yes=yes)
    if not control.delete(app, _WITHIN_S):
        fail(f"Application '{app}' is not gone after {_WITHIN_S:.0f} s; it goes when its requests have finished.", 1)
    say(f"Application {app} is gone.")
