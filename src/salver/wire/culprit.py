"""Which part of a value cannot be pickled: its path, as the user would write it.

The search runs nothing of the user's but pickling itself: containers are walked with the methods of the built-in
types, attributes come from ``__dict__`` and not through ``__getattr__``, and no ``repr`` but that of a plain key is
called. What it costs is bounded by pickling the value a few times: the first bad item of a container is found by
halving.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

_DEEPEST = 6
_KEY_LIMIT = 60

_CONTAINERS: tuple[type, ...] = (list, tuple, set, frozenset)

CanPickle = Callable[[object], bool]


def find_unpicklable(value: object, can_pickle: CanPickle) -> tuple[str, object]:
    """The deepest part of ``value`` that cannot be pickled by itself, with its path (``['model'].lock``).

    Args:
        can_pickle: raises nothing.
    """
    path = ""
    for _ in range(_DEEPEST):
        parts = _parts(value)
        index = _first_bad([part for _, part in parts], can_pickle)
        if index is None:
            break
        step, value = parts[index]
        path += step if isinstance(step, str) else f"[{step}]"
    return path, value


def _first_bad(parts: list[object], can_pickle: CanPickle) -> int | None:
    if can_pickle(parts):
        return None
    low, high = 0, len(parts)  # parts[:low] can be pickled, parts[:high] cannot
    while high - low > 1:
        middle = (low + high) // 2
        if can_pickle(parts[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _parts(value: Any) -> list[tuple[str | int, object]]:
    """What is directly in ``value``; steps are text, or an index, which becomes text only where it is used."""
    kind = cast("type[object]", type(value))
    if issubclass(kind, dict):
        return [(f"[{_key(key)}]", item) for key, item in cast("Any", dict).items(value)]
    for container in _CONTAINERS:
        if issubclass(kind, container):
            return list(enumerate(cast("list[object]", cast("Any", container).__iter__(value))))
    try:
        attributes: Any = object.__getattribute__(value, "__dict__")
    except Exception:  # noqa: BLE001 - there is none, or a property of that name that raises
        return []
    if issubclass(kind, type) or type(attributes) is not dict:
        return []
    return [(f".{name}", item) for name, item in cast("dict[object, object]", attributes).items()]


def _key(key: Any) -> str:
    kind = cast("type[object]", type(key))
    if kind is str or kind is bytes:
        return repr(key) if len(key) <= _KEY_LIMIT else f"{key[:_KEY_LIMIT]!r}…"
    if kind is bool or kind is float or key is None or (kind is int and -(2**64) < key < 2**64):
        return repr(key)
    return f"<a {kind.__qualname__}>"
