"""``salver rollback``: back to what ran before."""

from __future__ import annotations

import click

from salver.cli.instance_option import control_of, control_options
from salver.cli.output import say


@click.command()
@click.argument("app")
@click.option("--wait/--no-wait", default=True, help="Return when it runs or has failed, or at once.")
@control_options
def rollback(app: str, wait: bool, instance: str | None) -> None:
    """\b
    Return an application to the version that ran before its last update.

    \b
    Examples:
      salver rollback default
    """
    control = control_of(instance)
    deployed_at_s = control.rollback(app)
    say(f"Application {app} returns to the version before.")
    if wait:
        from salver.cli.awaited import Awaited
        from salver.cli.deploying import watch_or_fail

        watch_or_fail(control, Awaited((app,), deployed_at_s=deployed_at_s))
        say(f"Application {app} runs.")
