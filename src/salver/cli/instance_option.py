"""``--instance NAME``: which of the running instances a command is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from salver.engine.local.instance import find_instance

if TYPE_CHECKING:
    from salver.controller.client import ControlClient

instance_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--instance", metavar="NAME", help="Which instance, when several run."
)


def control_of(instance: str | None) -> ControlClient:
    """The control API of the named instance, or of the only one. Raises LookupError."""
    from salver.controller.client import ControlClient  # what only waits for a signal does not carry it

    return ControlClient(find_instance(instance).control_socket)
