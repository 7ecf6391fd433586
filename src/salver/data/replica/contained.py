"""User code outside of requests that raises what would end the event loop, or looks like our own cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def contained(what: str) -> Generator[None]:
    """Let no SystemExit, KeyboardInterrupt or CancelledError of the user's out: nobody would learn why.

    Args:
        what: names the code.

    Raises:
        RuntimeError: in their place; with the user's traceback.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            raise
        text = f"{what} raised {type(error).__name__}: {error}".removesuffix(": ")
        raise RuntimeError(text).with_traceback(error.__traceback__) from None


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
