"""``salver logs``: what an instance's processes have written, and are writing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click
import msgspec

from salver.cli.instance_option import instance_option
from salver.cli.output import say
from salver.engine.local.instance import Instance, find_instance, running_instances
from salver.engine.local.log_folder import log_folders
from salver.telemetry.log_files import Follower, LogRecord, Wanted, last_records
from salver.telemetry.text_lines import fields_of

_LOOK_EVERY_S = 0.2
_SHOWN = 200


@click.command()
@click.argument("of", metavar="[APP[/DEPLOYMENT]]", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C or the instance's end.")
@click.option("-n", "--lines", type=click.IntRange(0), default=_SHOWN, show_default=True, help="Records to show.")
@click.option(
    "--component",
    type=click.Choice(["proxy", "controller", "replica", "supervisor"]),
    help="Only what these processes wrote.",
)
@click.option("--replica", metavar="ID", default="", help="Only what this replica wrote.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object per record, whatever the files have.")
@instance_option
def logs(
    of: str, follow: bool, lines: int, component: str | None, replica: str, as_json: bool, instance: str | None
) -> None:
    """\b
    Show the log of the running instance, or of the one that ended last.

    \b
    Examples:
      salver logs -f                        everything, as it comes
      salver logs default/Translator        one deployment's replicas
      salver logs --component proxy -n 20   the last requests
    """
    app, _, deployment = of.partition("/")
    wanted = Wanted(app=app, deployment=deployment, replica=replica, component=component or "")
    running, folder = _find(instance)
    follower = Follower(folder) if follow and running is not None else None
    try:
        found = last_records(folder, wanted, lines)
        for record in found:
            _show(record, as_json)
        if not found and lines and wanted != Wanted():
            say("No line of the log is about that.")
        if follower is not None and running is not None:
            _follow(running, follower, wanted, as_json)
    except BrokenPipeError:
        sys.stderr.close()  # `salver logs | head`: nobody reads what Python would say about it
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(0)  # the only way to end it is no failure
    finally:
        if follower is not None:
            follower.close()


def _find(name: str | None) -> tuple[Instance | None, Path]:
    """The running instance, if there is one, and the folder of its logs. Raises LookupError."""
    running = [each for each in running_instances() if name in {None, each.name}]
    if running:
        instance = find_instance(name)
        folder = instance.logs
        if folder is not None:
            return instance, folder
    folders = log_folders(name or "")
    if not folders:
        raise LookupError(f"There are no logs of an instance{'' if name is None else f' named {name!r}'}.")
    click.echo(f"The instance has ended; its logs are in {folders[0].resolve()}", err=True)
    return None, folders[0]


def _follow(instance: Instance, follower: Follower, wanted: Wanted, as_json: bool) -> None:
    while True:
        runs = instance.is_running()  # before reading: its last words are not to be missed
        for record in follower.read():
            if wanted.covers(record):
                _show(record, as_json)
        sys.stdout.flush()
        if not runs:
            click.echo("The instance has ended.", err=True)
            return
        time.sleep(_LOOK_EVERY_S)


def _show(record: LogRecord, as_json: bool) -> None:
    data = record.data
    if as_json and not data.startswith(b"{"):
        data = msgspec.json.encode(fields_of(data)) + b"\n"
    sys.stdout.buffer.write(data)
