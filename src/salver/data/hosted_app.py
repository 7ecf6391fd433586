"""The user's ASGI application in a replica: started, called once per request, stopped.

Errors that are not the application's fault (a full queue further down, a deployment that is gone, a deadline) must
reach the ingress, which has one answer for each. But frameworks turn every ``Exception`` into their own 500 on its way
out. So such an error travels as a ``LeftToIngress``, which is a ``BaseException`` and thus passes their ``except``
clauses, and is turned back here. Answering in the application instead would need the wording, the status of a
timeout and the error's kind in two places.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio import to_thread

from salver.data.asgi import Message, Scope
from salver.data.lifespan import ASGIApp, Lifespan


class LeftToIngress(BaseException):
    """``error``, past all error handling of the application's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class HostedApp:
    """An ASGI application and its lifespan. ``start`` it, then call it like the application itself.

    Args:
        app: the user's.
        threads: how many requests may run at once. Frameworks run ``def`` handlers in a pool of their own, 40 threads
            by default; it grows to this.
    """

    def __init__(self, app: ASGIApp, *, threads: int) -> None:
        self._app = app
        self._threads = threads
        self._lifespan = Lifespan(app)

    async def start(self) -> None:
        """Raises what the application's startup raises."""
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = max(limiter.total_tokens, self._threads)
        await self._lifespan.start()

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Serve one request or WebSocket. Raises what the application raises."""
        scope["state"] = dict(self._lifespan.state)
        try:
            await self._app(scope, receive, send)
        except LeftToIngress as left:
            raise left.error from None

    async def stop(self, timeout_s: float) -> None:
        """Shut the application down, within ``timeout_s`` seconds."""
        await self._lifespan.stop(timeout_s)
