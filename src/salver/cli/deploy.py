"""``salver deploy``: change what a running instance runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from salver.cli.application_flags import ApplicationFlags, application_flags
from salver.cli.awaited import Awaited
from salver.cli.config_path import is_config_file
from salver.cli.following import Hold
from salver.cli.instance_option import address_given, chosen_instance, control_options, control_to
from salver.cli.output import fail, say
from salver.cli.requests import BuildRequest
from salver.cli.sections import SectionedCommand
from salver.cli.source import build_request, refuse_arguments_of_config
from salver.controller.network_address import NetworkAddress
from salver.engine.local.instance import Instance, find_instance, running_instances

if TYPE_CHECKING:
    from salver.cli.declaring import ReadConfig

_ANSWER_BYTES = 64


@click.command(cls=SectionedCommand, context_settings={"show_default": True})
@click.argument("config_or_import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@application_flags
@click.option("--wait/--no-wait", default=True, help="Return when everything runs or has failed, or at once.")
@click.option("--dry-run", is_flag=True, help="Only check a config file: build and compare it.")
@control_options
def deploy(
    config_or_import_path: str,
    arguments: tuple[str, ...],
    application: ApplicationFlags,
    wait: bool,
    dry_run: bool,
    instance: str | None,
) -> None:
    """\b
    Make a running instance run what a config file says, or the application at an import path.

    \b
    Examples:
      salver deploy serve.yaml
      salver deploy serve.yaml --no-wait     return as soon as the instance has accepted it
      salver deploy serve.yaml --dry-run     check the file, change nothing
      salver deploy app:app --name second --route-prefix /second

    What a config file names is built before anything is changed, so that what is wrong with it, or with its code,
    changes nothing. With --no-wait the instance accepts it unbuilt; `salver status` tells what is wrong.

    What did not change goes on running. Applications that an earlier config file brought and this one does not name
    are deleted; those that were deployed otherwise stay.
    """
    found: Instance | NetworkAddress
    if is_config_file(config_or_import_path):
        refuse_arguments_of_config(arguments, application)
        there = chosen_instance(instance) if address_given() else None
        app_dir = None if isinstance(there, NetworkAddress) else application.app_dir
        read = import_module("salver.cli.declaring").read_config(config_or_import_path, app_dir)
        if dry_run:
            _try(read, there or _comparable(instance))
            say(f"{config_or_import_path} is in order.")
            return
        found = there or find_instance(instance)
        awaited = _declare(read, found, check=wait)
    elif dry_run:
        raise click.UsageError(f"--dry-run checks config files, and there is no file {config_or_import_path!r}.")
    else:
        found = chosen_instance(instance)
        if not isinstance(found, Instance):
            raise click.UsageError("Code of this machine is not sent elsewhere: deploy a config file there.")
        awaited = _build(build_request(config_or_import_path, arguments, application), found)
    say("Sent deploy request successfully.")
    if wait:
        _wait(found, awaited)


def _comparable(name: str | None) -> Instance | None:
    """An instance to compare a file with, if one runs."""
    running = running_instances()
    if name is None and len(running) > 1:
        say("Several instances are running: the file is compared with what runs only with --instance NAME.")
        return None
    return find_instance(name) if name is not None or running else None


def _try(read: ReadConfig, found: Instance | NetworkAddress | None) -> None:
    """Build what the file names, and say what it would change that it does not name."""
    from salver.cli import checking, declaring

    if found is None:
        from salver.cli.checking_here import check_here

        check_here(read)
        return
    checking.check_by_instance(read, control_to(found), to_deploy=False)
    if isinstance(found, Instance):
        declaring.warn_of_what_stays(read.checked, found)
    declaring.compare(read.checked, control_to(found))


def _declare(read: ReadConfig, found: Instance | NetworkAddress, *, check: bool) -> Awaited:
    from salver.cli import checking, declaring

    control = control_to(found)
    built: str | None = None
    if check:
        try:
            built = checking.check_by_instance(read, control, to_deploy=True)
        except KeyboardInterrupt:
            say("Nothing was changed.")
            sys.exit(130)
    if isinstance(found, Instance):
        declaring.warn_of_what_stays(read.checked, found)
    return declaring.declare(read.checked, control, built)


def _build(request: BuildRequest, instance: Instance) -> Awaited:
    """Have a child build and deploy it: whatever the user's modules start ends with it."""
    reading, writing = os.pipe()

    def main() -> None:
        deployed_at_s: float = import_module("salver.cli.deploying").build_and_deploy(request, instance)
        os.write(writing, repr(deployed_at_s).encode())

    code = Hold(instance, None).have_done(f"salver: build {request.import_path}", main)
    os.close(writing)
    if code:
        sys.exit(code)
    # not to the end: what user code has left running may hold the other side
    answer = os.read(reading, _ANSWER_BYTES)
    os.close(reading)
    if not answer:
        fail(f"{request.import_path} was not deployed: its code ended the process that imports it.", 1)
    return Awaited((request.name,), deployed_at_s=float(answer))


def _wait(found: Instance | NetworkAddress, awaited: Awaited) -> None:
    from salver.cli.deploying import watch_or_fail

    try:
        watch_or_fail(control_to(found), awaited)
    except KeyboardInterrupt:
        say("The instance goes on with it; `salver status` shows how far it is.")
        sys.exit(130)
    nothing = "Nothing that files have deployed runs any more: this one names no application."
    ready = f"Ready at {found.info().url}" if isinstance(found, Instance) else "Ready."
    say(ready if awaited.names else nothing)
