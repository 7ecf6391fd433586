"""A function in a thread of its own, awaited: for user code that may never return.

The threads of a pool are joined when the process ends, and whoever waits for one that is stuck waits as well. A
daemon thread holds up nobody; whoever awaits it may give up at any time, and it goes on unheard.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


async def in_own_thread(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call ``function(*args)`` in a new daemon thread, with this task's context variables.

    Raises:
        BaseException: what it raises; a RuntimeError in place of StopIteration, as in every ``async def``.
    """
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()  # whoever stops waiting does not take away where the outcome goes
    work = (outcome, contextvars.copy_context(), function, args)
    threading.Thread(target=_work, args=work, name=f"salver-{_name(function)}", daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _work(
    outcome: Future[Any], context: contextvars.Context, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    try:
        outcome.set_result(context.run(function, *args))
    except StopIteration:
        outcome.set_exception(RuntimeError(f"{_name(function)} raised StopIteration"))
    except BaseException as error:  # noqa: BLE001 - for whoever waits
        outcome.set_exception(error)
        del outcome  # else the exception and this frame refer to each other


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", "hook"))
