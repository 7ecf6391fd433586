"""What the controller asks of a replica, carried out in user code, answered when that has ended.

Every request may come again, from the same controller or from the next one: Initialize is done once and answered as
often as it is asked; Reconfigure is done in the order in which it came; whoever asks for a check that runs already
gets the outcome of that one, so that one that hangs is not started again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from salver.data.channel import Channel
from salver.data.replica.failure_text import user_traceback
from salver.errors import ServeException
from salver.wire.error_text import text_of
from salver.wire.frames import Frame, Kind
from salver.wire.messages import (
    CheckHealth,
    Constructed,
    Control,
    Drain,
    ErrorKind,
    ErrorMeta,
    Initialize,
    Reconfigure,
    RecordStats,
    decode_control,
    encode,
)


class Commanded(Protocol):
    """The replica: what each request means. Whatever these raise is the answer."""

    initializing: str
    """The step that ``initialize`` is at, or was at when it failed: an ``ErrorKind``."""

    async def initialize(self, message: Initialize) -> None: ...

    def constructed_as(self) -> Constructed: ...

    async def reconfigure(self, message: Reconfigure) -> None: ...

    async def check_health(self) -> None: ...

    async def record_stats(self) -> dict[str, float]: ...

    def drain(self) -> None: ...


class Commands:
    """The requests that are under way."""

    def __init__(self, replica: Commanded) -> None:
        self._replica = replica
        self._initialized: asyncio.Task[bytes] | None = None
        self._in_order = asyncio.Lock()
        self._checks: dict[type[Control], asyncio.Task[bytes]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def received(self, channel: Channel, frame: Frame) -> None:
        """A CONTROL frame has come."""
        message = decode_control(bytes(frame.payload))
        if isinstance(message, Drain):
            channel.send(Kind.RESPONSE, frame.stream)
            self._replica.drain()
            return
        self._spawn(self._answer(channel, frame.stream, self._work(message)))

    async def close(self) -> None:
        """Cancel everything that is under way. May be called twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _work(self, message: Initialize | Reconfigure | CheckHealth | RecordStats) -> asyncio.Task[bytes]:
        """The task whose result is the answer's metadata: a new one, or the one that does it already."""
        if isinstance(message, Initialize):
            if self._initialized is None:
                self._initialized = self._spawn(self._initialize(message))
            return self._initialized
        if isinstance(message, Reconfigure):
            return self._spawn(self._reconfigure(message))
        running = self._checks.get(type(message))
        if running is None or running.done():
            check = self._check_health() if isinstance(message, CheckHealth) else self._record_stats()
            running = self._checks[type(message)] = self._spawn(check)
        return running

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, channel: Channel, stream: int, work: asyncio.Task[bytes]) -> None:
        await asyncio.wait({work})  # raising its error here would cut the traceback for those who ask again
        error = work.exception()
        if error is None:
            meta = encode(self._replica.constructed_as()) if work is self._initialized else work.result()
            channel.send(Kind.RESPONSE, stream, meta)
        else:
            text = user_traceback(error)
            kind = self._replica.initializing if work is self._initialized else ErrorKind.USER
            meta = encode(ErrorMeta(kind, type(error).__qualname__, text_of(error), text))
            channel.send(Kind.ERROR, stream, meta)

    async def _initialize(self, message: Initialize) -> bytes:
        await self._replica.initialize(message)
        return b""

    async def _reconfigure(self, message: Reconfigure) -> bytes:
        async with self._in_order:
            await self._constructed()
            await self._replica.reconfigure(message)
        return b""

    async def _check_health(self) -> bytes:
        await self._constructed()
        await self._replica.check_health()
        return b""

    async def _record_stats(self) -> bytes:
        await self._constructed()
        return msgspec.msgpack.encode(await self._replica.record_stats())

    async def _constructed(self) -> None:
        """Wait until there is something to ask. Raises ServeException when there is not."""
        if self._initialized is not None:
            await asyncio.wait({self._initialized})
        if self._initialized is None or self._initialized.exception() is not None:
            raise ServeException("the replica has not constructed its user's object")
