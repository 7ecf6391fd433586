"""One call of a batched function: what it was called with, and its caller, who waits for an answer.

An answer is given once, or value by value where the batched function is a generator. It is *over* when it is
complete, and also when its caller has left: whatever is given to it then is dropped.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextvars import copy_context
from math import inf
from typing import Any

from salver.data.context import request_context
from salver.errors import ServeException
from salver.serve.batching.plan import Waiting

MAX_UNREAD = 1000
"""Values that a stream keeps for a slow reader. To wait for it would stop everyone else in the batch."""


class Answer(ABC):
    """What a caller waits for."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_over(self) -> bool: ...

    @abstractmethod
    def give(self, value: Any) -> None:
        """A result, or the next one of a stream."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """The last thing that the caller gets."""

    @abstractmethod
    def cancel(self) -> None:
        """There will be no answer."""


class ValueAnswer(Answer):
    """One value; callers await ``future``."""

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def give(self, value: Any) -> None:
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen: a caller that is cancelled right now never looks

    def cancel(self) -> None:
        self.future.cancel()


class StreamAnswer(Answer):
    """Values in turn; callers iterate. What was given before a failure is read before it."""

    __slots__ = ("_error", "_loop", "_over", "_reader", "_unread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unread: deque[Any] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._over = False
        self._error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self._over

    def give(self, value: Any) -> None:
        if self._over:
            return
        if len(self._unread) == MAX_UNREAD:
            self.fail(ServeException(f"This stream was read too slowly: {MAX_UNREAD} values of it were unread."))
            return
        self._unread.append(value)
        self._wake()

    def end(self) -> None:
        """There are no more values."""
        self._over = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self._over:
            self._error = error
            self.end()

    def cancel(self) -> None:
        self.fail(asyncio.CancelledError())

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> StreamAnswer:
        return self

    async def __anext__(self) -> Any:
        while not self._unread:
            if self._over:
                raise self._error or StopAsyncIteration
            self._reader = self._loop.create_future()
            await self._reader
        return self._unread.popleft()


class Call(Waiting):
    """A call that waits for its batch or is in one.

    Attributes:
        context: the caller's context variables as they were, a copy that belongs to the call.
        request: the request that the caller works for.
    """

    __slots__ = ("answer", "args", "context", "kwargs", "request")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Answer) -> None:
        self.args = args
        self.kwargs = kwargs
        self.answer = answer
        self.context = copy_context()
        self.request = request_context.get()
        shape = (len(args), *sorted(kwargs)) if kwargs else len(args)
        deadline = self.request.deadline
        super().__init__((self.request.multiplexed_model_id, shape), inf if deadline is None else deadline)

    @property
    def item(self) -> Any:
        """What a batch is weighed by: the first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))
