"""``--instance NAME`` and ``--address URL``: which instance a command is for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from salver.cli.output import say
from salver.engine.local.instance import Instance, find_instance, running_instances

if TYPE_CHECKING:
    from salver.controller.client import ControlClient
    from salver.controller.network_address import NetworkAddress

_ADDRESS = "salver.cli.address"
_WARNED = "salver.cli.address_warned"
_TOKEN = "SALVER_TOKEN"  # noqa: S105 - the name of a variable
THIS_MACHINE = {"", "auto", "local"}
"""What Ray Serve's users say for the cluster that is there."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

instance_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--instance", metavar="NAME", help="Which instance, when several run."
)


def control_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--instance``, and ``--address`` for an instance elsewhere; ``control_of`` knows about both."""
    address = click.option(
        "-a",
        "--address",
        metavar="URL",
        expose_value=False,
        callback=_keep_address,
        help=f"The control API of an instance elsewhere (--admin-port); its token is taken from ${_TOKEN}.",
    )
    return instance_option(address(command))


def _keep_address(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is None or value in THIS_MACHINE:
        return
    from salver.controller.network_address import network_address  # few are elsewhere

    try:
        context.meta[_ADDRESS] = network_address(value, os.environ.get(_TOKEN, "").strip())
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def chosen_instance(instance: str | None) -> Instance | NetworkAddress:
    """The one that the options name, or the only one here; one of this user here is asked through its socket.

    Raises:
        LookupError: there is none, or no token for it.
    """
    address: NetworkAddress | None = click.get_current_context().meta.get(_ADDRESS)
    if address is None:
        return find_instance(instance)
    if instance is not None:
        raise click.UsageError("--instance is for one on this machine, --address for one elsewhere: one of them.")
    here = _here(address)
    if here is None and not address.token:
        raise LookupError(
            f"The control API at {address} wants a token: set {_TOKEN} to what is in the admin.token of its instance."
        )
    if here is not None:
        return here
    _warn_of_clear_text(address)
    return address


def _warn_of_clear_text(address: NetworkAddress) -> None:
    """Once: the token is about to cross a network as it is. Some networks are safe, so it is no error."""
    meta = click.get_current_context().meta
    if address.tls or _is_loopback(address.host) or meta.get(_WARNED):
        return
    meta[_WARNED] = True
    say(
        f"Warning: {address} is not encrypted: who can listen on the way gets the token, and can run code there. "
        f"Use https:// and a proxy that does TLS, or a tunnel: `ssh -N -L {address.port}:localhost:{address.port} "
        f"{address.host}` and --address http://localhost:{address.port}."
    )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK or host.endswith(".localhost")


def _here(address: NetworkAddress) -> Instance | None:
    for instance in running_instances():
        admin = instance.info().admin
        if admin is not None and admin.port == address.port and address.host in {admin.host, *_LOOPBACK}:
            return instance
    return None


def address_given() -> bool:
    """Whether ``--address`` names something else than this machine."""
    return _ADDRESS in click.get_current_context().meta


def control_of(instance: str | None) -> ControlClient:
    """The control API of the instance that the options name. Raises LookupError."""
    return control_to(chosen_instance(instance))


def control_to(chosen: Instance | NetworkAddress) -> ControlClient:
    from salver.controller.client import ControlClient  # what only waits for a signal does not carry it

    return ControlClient(chosen.control_socket if isinstance(chosen, Instance) else chosen)
