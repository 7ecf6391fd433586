"""What ``salver run`` asks its builder child to do; apart from ``build``, so that the parent imports no more."""

from __future__ import annotations

from msgspec import Struct


class BuildRequest(Struct, frozen=True):
    """An application to build and deploy; the fields are the command's arguments."""

    import_path: str
    arguments: tuple[str, ...]
    app_dir: str
    name: str
    route_prefix: str
    compat: bool
