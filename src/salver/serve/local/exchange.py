"""One ASGI call of a test, seen from the test's thread: messages go in, messages come out, one at a time.

The call runs on the session's loop. It is held up while the test has not taken its last message, so a stream comes in
the pieces in which it was sent, and no faster than it is read.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from salver.data.http.asgi_ingress import ASGIIngress
from salver.data.replica.asgi import Message, Scope
from salver.serve.local.session import LocalTestingSession


class LocalExchange:
    """A call of ``asgi``. ``start`` it, and ``close`` it always.

    Args:
        session: on whose loop it runs.
        timeout_s: for each wait.
        whole: it is for all of them together.
    """

    def __init__(
        self,
        session: LocalTestingSession,
        asgi: ASGIIngress,
        scope: Scope,
        timeout_s: float,
        *,
        whole: bool = False,
    ) -> None:
        self._session = session
        self._asgi = asgi
        self._scope = scope
        self._timeout_s = timeout_s
        self._until = monotonic() + timeout_s if whole else None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, *messages: Message) -> None:
        """Call the application; ``messages`` are the first that it receives."""
        self._session.run(self._start(messages))

    async def _start(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            self._inbox.put_nowait(message)
        self._task = asyncio.create_task(self._asgi(self._scope, self._inbox.get, self._send))
        self._task.add_done_callback(lambda _: self._news.set())

    async def _send(self, message: Message) -> None:
        await self._outbox.put(message)
        self._news.set()

    def put(self, message: Message) -> None:
        """Send to the application."""
        self._session.run(self._inbox.put(message))

    def next(self) -> Message | None:
        """The application's next message; None after its last.

        Raises:
            TimeoutError: it did not come in time.
            ConnectionError: the application failed in the middle of its answer.
        """
        left = self._timeout_s if self._until is None else max(self._until - monotonic(), 0.0)
        return self._session.run(self._next(left), left)

    async def _next(self, within_s: float) -> Message | None:
        assert self._task is not None
        async with asyncio.timeout(within_s):
            while self._outbox.empty():
                if self._task.done():
                    self._task.result()
                    return None
                self._news.clear()
                await self._news.wait()
        return self._outbox.get_nowait()

    def close(self) -> None:
        """Leave: what still runs for it is cancelled. May be called twice."""
        if self._session.is_running:
            self._session.run(self._close())

    async def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
