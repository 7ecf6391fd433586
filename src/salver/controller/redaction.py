"""What is taken out of documents before they go over a network: values that are secrets, or may hold some.

The names stay, so that one sees what is set. On the Unix socket environment variables are shown: whoever may connect
there can read them from ``/proc`` as well.
"""

from __future__ import annotations

import re
from typing import Any, cast

REDACTED = "<redacted>"

_of_a_url = re.compile(r"://[^/\s@]+:[^/\s@]+@")


def redacted(value: Any) -> Any:
    """A copy of a JSON value without values of ``env_vars``, passwords of key files and those in URLs."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: _redacted_member(name, member) for name, member in members.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(each) for each in cast("list[Any]", value)]
    if isinstance(value, str) and "://" in value:
        return _of_a_url.sub(f"://{REDACTED}@", value)
    return value


def without_passwords(value: Any) -> Any:
    """A copy of a JSON value without passwords of key files: not even this user's own shell should show those."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {
            name: REDACTED if name == _PASSWORD and member else without_passwords(member)
            for name, member in members.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_passwords(each) for each in cast("list[Any]", value)]
    return value


def redacted_places(value: Any, path: str = "") -> list[str]:
    """Where a JSON value holds what ``redacted`` writes: it was read over the network, and is not to be sent back."""
    if value == REDACTED:
        return [path]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return [place for name, member in members.items() for place in redacted_places(member, f"{path}.{name}")]
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [place for index, item in enumerate(items) for place in redacted_places(item, f"{path}[{index}]")]
    return []


_PASSWORD = "ssl_keyfile_password"  # noqa: S105 - its name


def _redacted_member(name: str, member: Any) -> Any:
    if name == _PASSWORD:
        return REDACTED if member else member
    if name == "env_vars" and isinstance(member, dict):
        return dict.fromkeys(cast("dict[str, Any]", member), REDACTED)
    return redacted(member)
