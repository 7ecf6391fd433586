"""The ASGI lifespan protocol, from the server's side: one task that stays open while the application is served.

The application is called once with a ``lifespan`` scope. It is told to start, answers, waits, is told to stop,
answers and returns. All of that is one task, because what a lifespan enters (task groups, cancel scopes) must be left
in the task that entered it.

An application that raises or returns before it has answered does not know the protocol, which the specification
allows: it is served without. One that says that its startup failed is not served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from salver.data.replica.asgi import InvalidASGI, Message, Scope
from salver.errors import ServeException

ASGIApp = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

logger = logging.getLogger("salver.replica")

_ENDS_WITHIN_S = 1.0
"""How long an application may take to return after it said that startup failed, or was cancelled."""


class LifespanFailed(ServeException):
    """The application said that its startup failed, and raised nothing that would say more."""


class Lifespan:
    """The lifespan of one application. ``start`` it before the first request, ``stop`` it after the last.

    Attributes:
        state: what the application's lifespan gave its requests (``request.state``).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answered = asyncio.Event()
        self._running = False
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the application is ready. Raises what its startup raised; who calls sets the deadline."""
        self._messages.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._live(), name="lifespan")
        try:
            await self._answered.wait()
        except asyncio.CancelledError:
            await self._end(self._task)
            raise
        if self._running:
            self._task.add_done_callback(self._ended)
        elif self._failure is not None:
            await self._raise_failure(self._task, self._failure)
        else:
            await self._note_missing(self._task)

    async def stop(self, timeout_s: float) -> None:
        """Let the application shut down, and cancel it after ``timeout_s`` seconds. Failures are for the log."""
        task = self._task
        if task is None or task.done():
            return
        self._running = False
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        finally:
            if not task.done():
                logger.error("the application's shutdown took longer than %g s and was cancelled", timeout_s)
                await self._end(task)

    # --- what the application sees ------------------------------------------------------------------------

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._messages.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:  # these end an event loop, and nobody would learn why
            self._failure = f"the lifespan raised {type(error).__name__}: {error}"
            raise RuntimeError(self._failure).with_traceback(error.__traceback__) from None
        finally:
            self._answered.set()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._running = True
        elif kind == "lifespan.startup.failed" or kind == "lifespan.shutdown.failed":
            self._failure = message.get("message", "")
        elif kind != "lifespan.shutdown.complete":
            raise InvalidASGI(f"an ASGI application sent {kind!r} in its lifespan, where it means nothing")
        self._answered.set()

    # --- how it ends --------------------------------------------------------------------------------------

    async def _raise_failure(self, task: asyncio.Task[None], failure: str) -> None:
        await asyncio.wait({task}, timeout=_ENDS_WITHIN_S)  # frameworks raise the cause after they have said so
        if not task.done():
            await self._end(task)
        elif not task.cancelled() and (error := task.exception()) is not None:
            raise error
        raise LifespanFailed(failure or "the application said that its startup failed")

    async def _note_missing(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait({task})  # it has returned, or is about to: nothing is awaited after the last `finally`
        error = None if task.cancelled() else task.exception()
        why = f"it raised {type(error).__name__}: {error}" if error else "it returned at once"
        logger.info("the ASGI application has no lifespan: %s", why)

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task}, timeout=_ENDS_WITHIN_S)
        if task.done() and not task.cancelled():
            task.exception()  # what a cancelled application raises is no news

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            when = "while it was served" if self._running else "at its shutdown"
            logger.error("the application's lifespan failed %s", when, exc_info=error)
        elif self._failure is not None:
            logger.error("the application's shutdown failed: %s", self._failure)
