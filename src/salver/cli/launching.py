"""Starting an instance as a command was told, on the sockets of a service manager if it passed some."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from msgspec import Struct

from salver.cli.admin_flags import admin_flags
from salver.cli.ingress_flags import IngressFlags, ingress_flags
from salver.cli.log_flags import LogFlags, log_flags
from salver.cli.output import say
from salver.cli.resource_flags import resource_flags
from salver.engine.local.admin import AdminOptions
from salver.engine.local.admin_token import token_file
from salver.engine.local.capacity import StatedCapacity
from salver.engine.local.launcher import LaunchedInstance, launch
from salver.engine.local.service import ServiceManager
from salver.records import LoggingSpec


class InstanceFlags(Struct, frozen=True):
    """What the user said about an instance that is to be started.

    Attributes:
        stated: what its machine has.
        admin: where its control API listens on TCP; None for nowhere.
        logging: how its processes log.
        log: what the flags said of that, for a config file that says something, too.
    """

    ingress: IngressFlags
    stated: StatedCapacity
    admin: AdminOptions | None
    logging: LoggingSpec = LoggingSpec()
    log: LogFlags = LogFlags()


def instance_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags of a new instance to a command; it gets them as one argument, ``told``."""

    @ingress_flags
    @resource_flags
    @admin_flags
    @log_flags
    @wraps(command)
    def with_instance(
        ingress: IngressFlags, stated: StatedCapacity, admin: AdminOptions | None, log: LogFlags, **values: Any
    ) -> None:
        command(told=InstanceFlags(ingress, stated, admin, log.spec, log), **values)

    return with_instance


def launch_as_told(
    told: InstanceFlags,
    manager: ServiceManager,
    *,
    detached: bool,
    name: str | None = None,
    as_service: bool = False,
    awaits_deploy: bool = False,
) -> LaunchedInstance:
    """Start it; ``awaits_deploy`` as in ``launch``. Raises StartupError, ConfigurationError."""
    ingress = told.ingress
    passed = manager.sockets()
    if passed["http"] and {"host", "port"} & set(ingress.given):
        say("Warning: --host and --port have no effect: the service manager has bound the socket.")
    launched = launch(
        host=ingress.host,
        port=ingress.port,
        proxies=ingress.proxies,
        name=name,
        detached=detached,
        options=ingress.options,
        root_url=ingress.root_url,
        listening=passed["http"],
        admin=told.admin,
        admin_listening=passed["admin"],
        stated=told.stated,
        logging=told.logging,
        as_service=as_service,
        from_command=True,
        awaits_deploy=awaits_deploy,
    )
    control_api = launched.instance.info().admin
    if control_api is not None:
        say(f"Control API at {control_api.url}, with the token in {token_file(launched.instance)}")
    return launched
