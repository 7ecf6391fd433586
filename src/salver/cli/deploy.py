"""``salver deploy``: change what a running instance runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from salver.cli.application_flags import ApplicationFlags, application_flags
from salver.cli.following import Hold
from salver.cli.instance_option import instance_option
from salver.cli.output import say
from salver.cli.requests import BuildRequest
from salver.cli.sections import SectionedCommand
from salver.cli.source import build_request, refuse_arguments_of_config
from salver.controller.client import ControlClient
from salver.engine.local.instance import Instance, find_instance


@click.command(cls=SectionedCommand, context_settings={"show_default": True})
@click.argument("config_or_import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@application_flags
@click.option("--wait/--no-wait", default=True, help="Return when everything runs or has failed, or at once.")
@click.option("--dry-run", is_flag=True, help="Only check a config file.")
@instance_option
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

    What did not change goes on running. Applications that an earlier config file brought and this one does not name
    are deleted; those that were deployed otherwise stay.
    """
    if os.path.isfile(config_or_import_path):
        refuse_arguments_of_config(arguments, application)
        checked = import_module("salver.cli.declaring").read_config(config_or_import_path, application.app_dir)
        if dry_run:
            say(f"{config_or_import_path} is in order.")
            return
        found = find_instance(instance)
        import_module("salver.cli.declaring").declare(checked, found)
        names = checked.applications
    elif dry_run:
        raise click.UsageError(f"--dry-run checks config files, and there is no file {config_or_import_path!r}.")
    else:
        found = find_instance(instance)
        names = _build(build_request(config_or_import_path, arguments, application), found)
    say("Sent deploy request successfully.")
    if wait:
        _wait(found, names)


def _build(request: BuildRequest, instance: Instance) -> tuple[str, ...]:
    """Have a child build and deploy it: whatever the user's modules start ends with it."""

    def main() -> None:
        import_module("salver.cli.deploying").build_and_deploy(request, instance, wait=False)

    code = Hold(instance, None).have_done(f"salver: build {request.import_path}", main)
    if code:
        sys.exit(code)
    return (request.name,)


def _wait(instance: Instance, names: tuple[str, ...]) -> None:
    from salver.cli.deploying import wait_or_fail
    from salver.cli.progress import progress_on_stderr

    try:
        wait_or_fail(ControlClient(instance.control_socket), names, progress_on_stderr())
    except KeyboardInterrupt:
        say("The instance goes on with it; `salver status` shows how far it is.")
        sys.exit(130)
    say(f"Ready at {instance.info().url}" if names else "Nothing runs any more: the file names no application.")
