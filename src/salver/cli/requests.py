"""What commands ask their children to do; apart from what does it, so that the parents import no more."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from salver.records import LoggingSpec


class BuildRequest(Struct, frozen=True):
    """An application to build and deploy; the fields are the command's arguments."""

    import_path: str
    arguments: tuple[str, ...]
    app_dir: str
    name: str
    route_prefix: str
    compat: bool
    runtime_env: dict[str, Any] = {}


class CheckedConfig(Struct, frozen=True):
    """A config file that is in order.

    Attributes:
        document: what the instance is to be declared.
        http_options: what it says about the HTTP ingress, by the names of ``serve.config.HTTPOptions``.
        logging: what it says about logs.
        applications: the names of those in it.
    """

    document: dict[str, Any]
    http_options: dict[str, Any]
    logging: LoggingSpec
    applications: tuple[str, ...]
