"""An exception of user code, in words that can travel and be logged, whatever its class does when it is asked."""

from __future__ import annotations

import traceback
from typing import Any

from salver.wire.error_text import TRACEBACK_LIMIT, bounded, describe, type_name

_OURS = ("salver.data.", "salver.wire.", "salver.serve.")
_NOT_THE_USERS = (*_OURS, "asyncio", "concurrent.futures", "importlib.", "anyio.", "starlette.", "fastapi.")
"""Modules whose frames say nothing to the user at the beginning of a traceback."""


def tamed(error: BaseException) -> BaseException:
    """``error``, or a RuntimeError in its place when it cannot even be asked what it is (``__class__`` raises)."""
    try:
        isinstance(error, _Nobody)
    except BaseException:  # noqa: BLE001 - whatever it is that comes from there
        return RuntimeError(f"an exception of the class {type_name(error)}, whose __class__ raises")
    return error


class _Nobody(BaseException):
    """No exception is one: ``isinstance`` has to ask ``__class__``."""


def user_traceback(error: BaseException) -> str:
    """The traceback without our own frames at its beginning, of bounded length."""
    try:
        walk: Any = error.__traceback__
        while walk is not None and is_ours(walk.tb_frame.f_globals.get("__name__", "")):
            walk = walk.tb_next
        text = "".join(traceback.format_exception(type(error), error, walk or error.__traceback__))
    except BaseException:  # noqa: BLE001 - formatting reads attributes, and those can be the user's
        text = describe(error)
    return bounded(text.rstrip(), TRACEBACK_LIMIT)


def is_ours(module: str) -> bool:
    """Whether a frame of this module says nothing about the user's code."""
    return module in {"contextlib", "importlib"} or module.startswith(_NOT_THE_USERS)
