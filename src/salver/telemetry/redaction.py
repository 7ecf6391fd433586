"""What must not be shown: values whose name says that they are secret.

Names decide, not values: a secret has no shape that could be told from other text. So this is for what has names,
which is headers, environment variables, fields of records and of configurations; free text passes as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

REDACTED = "<redacted>"

_DEEPEST = 32
_is_secret = re.compile(
    r"(proxy-)?authorization|(set-)?cookie|x-api-key|.*(token|secret|password).*", re.IGNORECASE | re.DOTALL
).fullmatch


def is_secret(name: str) -> bool:
    """Whether a value of this name must not be shown; ``_`` is as good as ``-`` in it."""
    return _is_secret(name.replace("_", "-")) is not None


def redacted(value: Any, name: str = "") -> Any:
    """A copy of ``value``, of the given name, in which every secret is ``REDACTED``, at any depth.

    Goes into mappings, lists and tuples. A pair that begins with a name is taken for a header, so that lists of pairs
    are covered as well. Names may be bytes.
    """
    return _redacted(value, name, 0)


def _redacted(value: Any, name: str, depth: int) -> Any:
    if is_secret(name):
        return REDACTED
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: _redacted(each, _as_name(key), depth + 1) for key, each in items}
    if isinstance(value, list | tuple):
        values = cast("list[Any] | tuple[Any, ...]", value)
        if len(values) == 2 and is_secret(_as_name(values[0])):
            return [values[0], REDACTED] if isinstance(value, list) else (values[0], REDACTED)
        shown = [_redacted(each, "", depth + 1) for each in values]
        return tuple(shown) if isinstance(value, tuple) else shown
    return value


def _as_name(key: Any) -> str:
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return key if isinstance(key, str) else ""
