"""Flags that Ray Serve's commands have and that change nothing here: scripts that say them run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from salver.cli.instance_option import THIS_MACHINE
from salver.cli.output import say
from salver.cli.sections import SectionedOption

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _flag(*declarations: str, callback: Callable[..., None], **attributes: Any) -> Decorator:
    return click.option(
        *declarations,
        cls=SectionedOption,
        section="Of Ray Serve, without effect here",
        expose_value=False,
        callback=callback,
        **attributes,
    )


def _warn(_context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value not in {None, (), "EveryNode", "HeadOnly"}:
        say(f"Warning: {parameter.opts[0]} has no effect in this version.")


def _only_here(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None and value not in THIS_MACHINE:
        raise click.BadParameter(
            f"{value!r}: this command starts an instance on this machine. To change one elsewhere, give its address "
            "to `salver deploy`."
        )


address_flag = _flag("-a", "--address", metavar="auto|local", callback=_only_here, help="It is this machine.")
proxy_location_flag = _flag(
    "--proxy-location",
    type=click.Choice(["EveryNode", "HeadOnly", "Disabled"]),
    callback=_warn,
    help="One machine is one node.",
)


def grpc_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    flag = partial(_flag, callback=_warn, help="There is no gRPC ingress.")
    reflection = flag("--grpc-enable-reflection/--grpc-disable-reflection", default=None)
    functions = flag("--grpc-servicer-functions", multiple=True)
    return flag("--grpc-port", type=int)(functions(reflection(command)))
