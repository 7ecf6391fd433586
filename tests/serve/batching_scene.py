"""What tests of ``serve.batch`` share: a loop, requests with contexts, and a batched function that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop

from salver.data.context import RequestContext, request_context
from salver.serve.batching.decorator import batch

WITHIN_S = 30.0
NEVER_S = 3600.0
"""A wait that no test lives to see the end of."""

uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good: no test leaves that behind


def run(test: Coroutine[Any, Any, None]) -> None:
    """On the loop of production; what asyncio would only log fails the test, and so does a task that is left."""
    complaints: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(WITHIN_S):
            await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
    assert not complaints, complaints


async def turns(count: int = 5) -> None:
    """Let everything run that can run without waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


async def requested(call: Any, *args: Any, **context: Any) -> Any:
    """Call as the code of a request does, whose context has these attributes."""
    request_context.set(RequestContext(**context))
    return await call(*args)


class Held:
    """Batches of a function that returns, item by item, what it was given, when the test says so."""

    def __init__(self, **options: Any) -> None:
        self.batches: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.contexts: list[RequestContext] = []
        self.cancelled = 0
        self.running = 0
        self._permits = asyncio.Semaphore(0)

        async def held(items: list[Any]) -> list[Any]:
            self.contexts.append(request_context.get())
            self.batches.put_nowait(items)
            self.running += 1
            try:
                await self._permits.acquire()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
            return items

        self.call = batch(**options)(held)

    def start(self, *args: Any, **context: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(requested(self.call, *args, **context))

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self._permits.release()

    @property
    def reasons(self) -> list[str]:
        return [str(record.reason) for record in self.call.recent_batches()]
