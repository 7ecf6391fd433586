"""``salver status``: what runs."""

from __future__ import annotations

import click

from salver.cli.output import show_status
from salver.engine.local.instance import find_instance


@click.command()
@click.option("--instance", metavar="NAME", help="Which instance, when several run.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole state as JSON.")
def status(instance: str | None, as_json: bool) -> None:
    """\b
    Show applications, deployments and replicas.

    \b
    Examples:
      salver status
      salver status --json | jq .applications
    """
    from salver.controller.client import ControlClient  # these take a while to import; other commands need neither
    from salver.serve.schema import serve_status

    state = serve_status(ControlClient(find_instance(instance).control_socket).status())
    if as_json:
        click.echo(state.model_dump_json(indent=2))
        return
    about = state.instance
    click.echo(f"Instance {about.name} · {about.url} · supervisor {about.supervisor_pid}")
    for name, application in state.applications.items():
        message = f": {application.message}" if application.message else ""
        click.echo(f"{name} is {application.status.value}{message}")
    show_status(state)
