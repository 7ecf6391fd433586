"""``salver run``: start an instance, have a child build and deploy what is to run, follow it, end it."""

from __future__ import annotations

import sys
from functools import partial

import click

from salver.cli.application_flags import ApplicationFlags, application_flags
from salver.cli.flags_of_ray import address_flag
from salver.cli.following import Hold
from salver.cli.instance_option import instance_option
from salver.cli.launching import InstanceFlags, instance_flags, launch_as_told
from salver.cli.sections import SectionedCommand
from salver.cli.source import Source, source_of
from salver.engine.local.instance import find_instance
from salver.engine.local.service import ServiceManager


@click.command(
    cls=SectionedCommand,
    context_settings={"show_default": True},
    short_help="Run the application at an import path, or those of a config file.",
)
@click.argument("config_or_import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@application_flags
@instance_flags
@click.option("--blocking/--non-blocking", default=True, help="Stay and follow, or return when it runs.")
@click.option("-r", "--reload", is_flag=True, help="Deploy again whenever a source in --app-dir changes.")
@instance_option
@address_flag
def run(
    config_or_import_path: str,
    arguments: tuple[str, ...],
    application: ApplicationFlags,
    told: InstanceFlags,
    blocking: bool,
    reload: bool,
    instance: str | None,
) -> None:
    """\b
    Run the application at an import path (module:attribute), or those of a config file.

    \b
    Examples:
      salver run app:app
      salver run app:app --reload            deploy again whenever a source changes
      salver run app:build size=small        arguments of a builder function
      salver run serve.yaml                  the applications of a config file
      salver run app:app --instance 8000 --name second --route-prefix /second
      salver run app:app --host 0.0.0.0 --ssl-certfile cert.pem --ssl-keyfile key.pem
    """
    if reload:
        _check_reload(blocking=blocking)
    manager = ServiceManager()
    source = source_of(config_or_import_path, arguments, application, starts_instance=instance is None)
    if instance is None:
        launched = launch_as_told(
            source.told(told), manager, detached=not blocking, as_service=manager.exists, awaits_deploy=True
        )
        hold = Hold(launched.instance, launched, manager=manager)
    else:
        hold = Hold(find_instance(instance), None, source.application)
    hold.do(partial(_deploy_and_follow, hold, source, blocking=blocking, reload=reload))


def _check_reload(*, blocking: bool) -> None:
    if not blocking:
        raise click.UsageError("The --non-blocking option conflicts with the --reload option.")
    from salver.cli.reloading import watchfiles_is_installed

    if not watchfiles_is_installed():
        raise click.UsageError("--reload needs the package watchfiles: pip install watchfiles.")


def _deploy_and_follow(hold: Hold, source: Source, *, blocking: bool, reload: bool) -> None:
    if reload:
        from salver.cli.reloading import reload_on_changes  # few do

        reload_on_changes(hold, source)
    else:
        code = hold.have_done(source.title, partial(source.deploy, hold.instance))
        if code and not hold.is_over:
            sys.exit(code)
        hold.tell("READY=1", f"STATUS=Serving {hold.instance.name}")
    if blocking or not hold.instance.is_running():
        hold.follow()
