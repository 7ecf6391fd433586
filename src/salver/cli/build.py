"""The child of ``salver run``: imports the user's application, deploys it, says when it runs."""

from __future__ import annotations

import os
import sys
import time

import click

from salver.cli.build_request import BuildRequest
from salver.cli.output import fail, show_status
from salver.compat import ray as ray_alias
from salver.controller.client import ControlClient
from salver.engine.local.instance import Instance
from salver.errors import ConfigurationError, SerializationError, StartupError
from salver.serve.api import deploy
from salver.serve.builder import ArgumentsError, build_from_target, parse_app_args
from salver.serve.deployment import Application
from salver.serve.graph import check_app_name, check_route_prefix
from salver.serve.import_path import ImportPathError, import_target, raised_by_user, user_traceback
from salver.serve.schema import serve_status


def build_and_deploy(request: BuildRequest, instance: Instance, parent: int) -> None:
    """Do it, print the ``Ready`` line and the table; exits with 1, 2 or 3 and a sentence when it fails."""
    sys.path.insert(0, os.path.abspath(request.app_dir))
    prefix = None if request.route_prefix in {"", "none", "None"} else request.route_prefix
    try:
        check_app_name(request.name)
        check_route_prefix(prefix)
        args = parse_app_args(request.arguments)
    except ConfigurationError as error:
        fail(str(error), 2)
    control = ControlClient(instance.control_socket)
    application = _load(request, args)
    try:
        deploy(application, control, name=request.name, route_prefix=prefix)
    except StartupError as error:
        fail(str(error), 3)
    except (ConfigurationError, SerializationError, RuntimeError) as error:
        fail(str(error), 1)
    seconds = _age(parent)
    url = instance.info().url.rstrip("/")
    where = f"{url}{prefix}" if prefix is not None else "for handles only, without a route"
    click.echo(f"Ready in {seconds:.2f} s · {where}", err=True)
    show_status(serve_status(control.status()), err=True)


def _age(pid: int) -> float:
    """Seconds since a process began. Not psutil's: it adds to the boot time in whole seconds, so is up to 1 s off."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _load(request: BuildRequest, args: dict[str, str]) -> Application:
    """Import and build; errors of the user's module are shown as the user's."""
    if request.compat or not ray_alias.ray_is_installed():
        why = "--compat" if request.compat else "Ray is not installed"
        ray_alias.install(lambda: click.echo(f"`import ray` means Salver here ({why}).", err=True))
    try:
        return build_from_target(import_target(request.import_path), args)
    except ImportPathError as error:
        fail(str(error), 1)
    except ArgumentsError as error:
        fail(str(error), 2)
    except BaseException as error:  # noqa: BLE001 - anything the user's module raises, SystemExit included
        if isinstance(error, TypeError) and not raised_by_user(error):  # ours: it is no application
            fail(f"{request.import_path}: {error}", 1)
        click.echo(user_traceback(error).rstrip(), err=True)
        fail(f"{request.import_path} could not be loaded: {type(error).__name__}.", 1)
