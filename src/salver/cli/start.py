"""``salver start``: an instance without an application, that lives on; in the foreground, a service."""

from __future__ import annotations

import os
import re
import sys
from functools import partial

import click

from salver.cli.flags_of_ray import address_flag, grpc_flags, proxy_location_flag
from salver.cli.following import Hold
from salver.cli.launching import InstanceFlags, instance_flags, launch_as_told
from salver.cli.output import say
from salver.cli.sections import SectionedCommand
from salver.engine.local.instance import Instance
from salver.engine.local.service import ServiceManager

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}").fullmatch
_RESERVED = "logs"
"""A folder beside those of instances."""


_RAYS_NAMES = {"http-host": "host", "http-port": "port"}
"""Of flags that mean the same there."""


def _our_name(flag: str) -> str:
    return _RAYS_NAMES.get(flag, flag)


def _name(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not _is_name(value) or value == _RESERVED):
        raise click.BadParameter(
            f"{value!r} must be up to 40 letters, digits, '.', '_' or '-', and not '{_RESERVED}'."
        )
    return value


@click.command(
    cls=SectionedCommand,
    context_settings={"show_default": True, "token_normalize_func": _our_name},
)
@click.option("--name", callback=_name, help="Its name, for --instance of other commands; default the port.")
@click.option("--foreground", is_flag=True, help="Stay, log to this terminal, and end with this command.")
@instance_flags
@address_flag
@proxy_location_flag
@grpc_flags
def start(name: str | None, foreground: bool, told: InstanceFlags) -> None:
    """\b
    Start an instance without applications. It lives until `salver shutdown`.

    \b
    Examples:
      salver start && salver deploy serve.yaml
      salver start --port 9000 --name staging
      salver start --foreground              a service: SIGTERM lets requests finish

    --http-host and --http-port, as Ray Serve calls them, mean --host and --port.
    """
    manager = ServiceManager()
    launched = launch_as_told(told, manager, detached=not foreground, name=name, as_service=True)
    hold = Hold(launched.instance, launched, manager=manager)
    hold.do(partial(_wait_and_follow, hold, foreground=foreground))


def _wait_and_follow(hold: Hold, *, foreground: bool) -> None:
    code = hold.have_done("salver: start", partial(_say_when_it_serves, hold.instance, os.getpid()))
    if code and not hold.is_over:
        sys.exit(code)
    hold.tell("READY=1", f"STATUS=Serving {hold.instance.info().url}")
    if foreground or not hold.instance.is_running():
        hold.follow()


def _say_when_it_serves(instance: Instance, command: int) -> None:
    from salver.cli.deploying import beginning_of, say_ready, wait_until_it_serves

    wait_until_it_serves(instance)
    say_ready(instance.info().url, instance, beginning_of(command))
    option = "" if instance.name == "8000" else f" --instance {instance.name}"
    say(f"Deploy to it with `salver deploy serve.yaml{option}` or `salver deploy module:app{option}`.")
