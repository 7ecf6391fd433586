"""Where a task stands: the user's code that it is in, found through what awaits what."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from types import AsyncGeneratorType, FrameType
from typing import Any

from salver.data.replica.failure_text import is_ours

_MOST_FRAMES = 1000
_THREAD_OF_ANYIO = "run_sync_in_worker_thread"
"""How frameworks run ``def`` handlers: in a thread, and what awaits it will not be cancelled."""


def standing(task: asyncio.Task[Any]) -> str:
    """The user's function that the task runs, and the line at which the innermost one waits.

    Empty when no code of the user's can be seen, or when the task waits for a thread, which nobody can cancel.
    """
    frames = list(_frames(task.get_coro()))
    users = [frame for frame in frames if not is_ours(frame.f_globals.get("__name__", ""))]
    if not users or any(frame.f_code.co_name == _THREAD_OF_ANYIO for frame in frames):
        return ""
    first, last = users[0], users[-1]
    return f"{first.f_code.co_qualname} at {last.f_code.co_filename}:{last.f_lineno}"


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Those of a coroutine that is suspended, outermost first."""
    for _ in range(_MOST_FRAMES):
        if _is_async_generator(awaited):
            frame, awaited = awaited.ag_frame, awaited.ag_await
        elif hasattr(awaited, "cr_frame"):
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif hasattr(awaited, "gi_frame"):
            frame, awaited = awaited.gi_frame, awaited.gi_yieldfrom
        else:
            # what ``async for`` awaits is a C object that tells nobody but the garbage collector of its generator
            awaited = next(filter(_is_async_generator, gc.get_referents(awaited)), None)
            if awaited is None:
                return
            continue
        if frame is not None:
            yield frame


def _is_async_generator(value: object) -> bool:
    return isinstance(value, AsyncGeneratorType)
