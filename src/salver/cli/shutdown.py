"""``salver shutdown``: end an instance from elsewhere."""

from __future__ import annotations

import click

from salver.cli.instance_option import chosen_instance, control_of, control_options
from salver.cli.output import confirm, fail, say
from salver.engine.local.instance import Instance, stop_instance


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@control_options
def shutdown(yes: bool, instance: str | None) -> None:
    """\b
    End an instance: requests finish, then its processes end.

    \b
    Examples:
      salver shutdown
      salver shutdown --instance 8000 --yes
    """
    found = chosen_instance(instance)
    if not isinstance(found, Instance):
        confirm(f"End the instance at {found} with all its applications?", yes=yes)
        control_of(instance).shutdown_applications()
        say(f"The instance at {found} ends.")
        return
    confirm(f"End instance {found.name} at {found.info().url} with all its applications?", yes=yes)
    if not stop_instance(found.info().pid):
        fail(f"instance '{found.name}' did not end within 60 s", 1)
    say(f"Instance {found.name} has ended.")
