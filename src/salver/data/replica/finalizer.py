"""Calling an object's ``__del__`` before its time, and only once.

A model that is evicted, and the user's object when its replica ends, should free what it has now, not when the last
reference to it happens to go, which in a process that ends may be never; and its ``__del__`` may be a coroutine
function, which Python itself can only complain about. But Python calls ``__del__`` when the object's memory is freed,
whoever has called it before. So the object's class gets a ``__del__`` that does
nothing for those objects whose own was called here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from salver.data.own_thread import in_own_thread

_finalized: set[int] = set()
"""``id`` of the objects whose ``__del__`` was called here, until they are freed."""

_guarded: set[Callable[[Any], Any]] = set()
"""What this module has put in the place of a class's ``__del__``."""


async def finalize(target: object) -> None:
    """Call ``__del__`` once, in a thread of its own if it is no coroutine function; nothing for those without one.

    Raises:
        Exception: what ``__del__`` raises.
    """
    kind = type(target)
    original = cast("Callable[[Any], Any] | None", getattr(kind, "__del__", None))
    if original is None or id(target) in _finalized:
        return
    original = getattr(original, "__wrapped__", original) if original in _guarded else _guard(kind, original)
    if original is None:
        return
    try:
        if inspect.iscoroutinefunction(original):
            await original(target)
        else:
            await in_own_thread(original, target)
    finally:
        _finalized.add(id(target))


def _guard(kind: type[Any], original: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    """Put a ``__del__`` into ``kind`` that spares the finalized; None where Python does not allow it."""

    def __del__(self: object) -> object:  # noqa: N807 - that is its name in tracebacks
        if id(self) in _finalized:
            _finalized.discard(id(self))
            return None
        return original(self)

    __del__.__wrapped__ = original  # pyright: ignore[reportFunctionMemberAccess]
    try:
        kind.__del__ = __del__
    except (TypeError, AttributeError):  # a class written in C: it frees what it has when its memory is freed
        return None
    _guarded.add(__del__)
    return original
