"""``salver shutdown``: end an instance from elsewhere."""

from __future__ import annotations

import click

from salver.cli.output import fail
from salver.engine.local.instance import find_instance, stop_instance


@click.command()
@click.option("--instance", metavar="NAME", help="Which instance, when several run.")
@click.option("-y", "--yes", is_flag=True, help="Accepted for Ray Serve's sake; nothing is asked.")
def shutdown(instance: str | None, yes: bool) -> None:
    """\b
    End an instance: requests finish, then its processes end.

    \b
    Examples:
      salver shutdown
      salver shutdown --instance 8000
    """
    found = find_instance(instance)
    if not stop_instance(found.info().pid):
        fail(f"instance '{found.name}' did not end within 60 s", 1)
    click.echo(f"Instance {found.name} has ended.", err=True)
