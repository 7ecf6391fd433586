"""The user's ASGI application in a replica: started, called once per request, stopped.

Errors that are not the application's fault (a full queue further down, a deployment that is gone, a deadline) must
reach the ingress, which has one answer for each: status, wording, ``Retry-After``, the kind of error in the metrics.
But frameworks turn every exception into a response of their own on its way out, and middleware relies on there being
one. So an application may *leave* such an error to the ingress: what it sends from then on goes through its
middleware and ends here, and the error is raised when it has returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio import to_thread

from salver.data.replica.asgi import Message, Scope
from salver.data.replica.lifespan import ASGIApp, Lifespan

_LEFT = "salver.left_to_ingress"


class _Left:
    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: Exception | None = None


def leave_to_ingress(scope: Scope, error: Exception) -> None:
    """Let the ingress answer for ``error``. Raises it where there is none: in a test of the application alone."""
    left = scope.get(_LEFT)
    if left is None:
        raise error
    left.error = error


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

    @property
    def docs_path(self) -> str:
        """Where a FastAPI application shows its documentation, empty for nowhere."""
        path: object = getattr(self._app, "docs_url", None)
        return path if isinstance(path, str) else ""

    async def start(self) -> None:
        """Raises what the application's startup raises."""
        self.resize(self._threads)
        await self._lifespan.start()

    def resize(self, threads: int) -> None:
        """Let at least so many ``def`` handlers run at once."""
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = max(limiter.total_tokens, threads)

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Serve one request or WebSocket. Raises what the application raises or has left to the ingress."""
        scope["state"] = dict(self._lifespan.state)
        scope[_LEFT] = left = _Left()

        async def send_unless_left(message: Message) -> None:
            if left.error is None:
                await send(message)

        await self._app(scope, receive, send_unless_left)
        if left.error is not None:
            raise left.error

    async def stop(self, timeout_s: float) -> None:
        """Shut the application down, within ``timeout_s`` seconds."""
        await self._lifespan.stop(timeout_s)
