"""Where in the user's code a thread is now, for a warning that another thread writes."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import NamedTuple

import uvloop

import salver
from salver.wire.error_text import bounded

_LIMIT = 16 * 1024
_MOST_FRAMES = 100
_STANDARD_LIBRARY = (*{sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}, "<frozen ")
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})
_MACHINERY = tuple(str(Path(module.__file__ or "").parent) for module in (salver, asyncio, uvloop))


class Location(NamedTuple):
    """Where a thread is.

    Attributes:
        place: ``app.py:12``, the innermost line that the user wrote.
        function: around that line.
        stack: as in a traceback, from the user's first frame on.
    """

    place: str
    function: str
    stack: str


def locate(thread: int) -> Location | None:
    """Where the thread of this ident is; None when there is no such thread."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage] - documented, in spite of its name
    if frame is None:
        return None
    walk = traceback.walk_stack(frame)
    del frame  # else its local variables would live as long as this function
    frames = traceback.StackSummary.extract(walk, limit=_MOST_FRAMES)
    frames.reverse()
    frames = _from_the_users_on(frames)
    inner = next((each for each in reversed(frames) if _is_the_users(each.filename)), None)
    inner = inner or next((each for each in reversed(frames) if _is_no_machinery(each.filename)), frames[-1])
    text = "".join(traceback.StackSummary.from_list(frames).format()).rstrip()
    return Location(f"{_short(inner.filename)}:{inner.lineno}", inner.name, bounded(text, _LIMIT))


def _from_the_users_on(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Without what has started the loop, and without our own that have called the user's.

    Of an application that is installed like a library we do not know which frames are the user's: all but ours then.
    """
    machinery = next((n for n, each in enumerate(frames) if each.filename.startswith(_MACHINERY)), 0)
    frames = frames[machinery:]
    for counts in (_is_the_users, _is_no_machinery):
        first = next((n for n, each in enumerate(frames) if counts(each.filename)), None)
        if first is not None:
            return frames[first:]
    return frames


def _is_the_users(filename: str) -> bool:
    return _is_no_machinery(filename) and not filename.startswith(_INSTALLED)


def _is_no_machinery(filename: str) -> bool:
    """Neither Salver's, nor of the standard library (whose folder is around that of what is installed)."""
    if filename.startswith(_MACHINERY):
        return False
    return not filename.startswith(_STANDARD_LIBRARY) or filename.startswith(_INSTALLED)


def _short(filename: str) -> str:
    """Relative to the current folder, for what is below it."""
    folder = os.path.join(os.getcwd(), "")
    return filename.removeprefix(folder)
