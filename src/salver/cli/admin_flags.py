"""The flags of the control API on TCP; the command gets them as one record, or None."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from salver.cli.sections import SectionedOption
from salver.engine.local.admin import AdminOptions

_SECTION = "Control API"
_FLAGS = (
    click.option(
        "--admin-port",
        cls=SectionedOption,
        section=_SECTION,
        type=click.IntRange(0, 65535),
        help="Take control requests on TCP too, with the token in the instance's admin.token; 0 for any port.",
    ),
    click.option(
        "--admin-host",
        cls=SectionedOption,
        section=_SECTION,
        metavar="ADDRESS",
        help="Address for that; default 127.0.0.1. It is plain HTTP: put TLS in front of any other.",
    ),
    click.option(
        "--admin-allowed-host",
        "admin_allowed_hosts",
        cls=SectionedOption,
        section=_SECTION,
        metavar="NAME",
        multiple=True,
        help="A name by which clients reach it; may be repeated.",
    ),
)


def admin_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command; it gets them as one argument, ``admin``: None without ``--admin-port``.

    The command is not called, and exits with 2, when they contradict each other, or were given together with
    ``--instance``, which listens where it was told to when it was started.
    """

    @wraps(command)
    def with_admin(**values: Any) -> None:
        port, host, names = (values.pop(f"admin_{each}") for each in ("port", "host", "allowed_hosts"))
        if port is None and (host is not None or names):
            raise click.UsageError("--admin-host and --admin-allowed-host need --admin-port.")
        if port is not None and values.get("instance") is not None:
            raise click.UsageError("--admin-port: not with --instance, which was started with or without one.")
        admin = None if port is None else AdminOptions(host or "127.0.0.1", port, tuple(names))
        command(admin=admin, **values)

    for flag in reversed(_FLAGS):
        with_admin = flag(with_admin)
    return with_admin
