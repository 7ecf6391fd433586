"""``salver status``: what runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from salver.cli.instance_option import control_of, control_options
from salver.cli.output import fail

if TYPE_CHECKING:
    from salver.controller.api_records import StatusAnswer
    from salver.controller.client import ControlClient
    from salver.views import ApplicationView

_WATCH_EVERY_S = 1.0


@click.command()
@click.option("-n", "--name", metavar="APP", help="Only this application.")
@click.option("-w", "--watch", is_flag=True, help="Stay, and show it again every second; on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole state as JSON.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print it as YAML, as Ray Serve does.")
@control_options
def status(name: str | None, watch: bool, as_json: bool, as_yaml: bool, instance: str | None) -> None:
    """\b
    Show applications, deployments and replicas.

    \b
    Examples:
      salver status
      salver status --name default --watch
      salver status --json | jq .applications
    """
    if watch + as_json + as_yaml > 1:
        raise click.UsageError("--watch, --json and --yaml: one of them.")
    control = control_of(instance)
    if as_json or as_yaml:
        _print_document(control.status(), name, yaml=as_yaml)
    elif watch:
        _watch(control, name)
    else:
        from salver.cli.status_table import console, overview

        answer = control.status()
        console().print(overview(answer, _chosen(answer, name)))


def _chosen(answer: StatusAnswer, name: str | None) -> list[ApplicationView]:
    views = [view for view in answer.applications if name in {None, view.name}]
    if name is not None and not views:
        fail(f"There is no application '{name}'.{_known(answer)}", 1)
    return views


def _known(answer: StatusAnswer) -> str:
    names = ", ".join(view.name for view in answer.applications)
    return f" There are: {names}." if names else ""


def _watch(control: ControlClient, name: str | None) -> None:
    from rich.live import Live

    from salver.cli.status_table import console, overview

    screen = console()
    if not screen.is_terminal:
        raise click.UsageError("--watch is for terminals; `salver events --follow` prints a line for each change.")
    with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            answer = control.status()
            live.update(overview(answer, _chosen(answer, name)), refresh=True)
            time.sleep(_WATCH_EVERY_S)


def _print_document(answer: StatusAnswer, name: str | None, *, yaml: bool) -> None:
    from salver.serve.schema import serve_status

    chosen = {view.name for view in _chosen(answer, name)}
    document = serve_status(answer)
    document.applications = {key: value for key, value in document.applications.items() if key in chosen}
    if yaml:
        from yaml import safe_dump

        click.echo(safe_dump(document.model_dump(mode="json"), sort_keys=False), nl=False)
    else:
        click.echo(document.model_dump_json(indent=2))
