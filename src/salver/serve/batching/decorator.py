"""``@serve.batch``: a function that takes lists, called with one item at a time.

What is decorated keeps being a function (a coroutine function, or an async generator function), so that it can be a
method, be wrapped again, or be deployed itself. Its calls go to a ``BatchQueue``; settings and history hang on it as
attributes, which bound methods show, too.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, Protocol, TypeVar, overload

from salver.serve.batching.call import Answer, Call, StreamAnswer, ValueAnswer
from salver.serve.batching.code import CODE_ATTRIBUTE, BatchedCode
from salver.serve.batching.limits import BatchLimits
from salver.serve.batching.queue import BatchQueue, batch_queue
from salver.serve.batching.record import BatchRecord

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class _Settings(Protocol):
    """Of a batched function, changed while it serves; for all objects whose method it is."""

    def set_max_batch_size(self, new_max_batch_size: int) -> None:
        """From the next batch on. Raises TypeError or ValueError, as ``batch`` does."""

    def set_batch_wait_timeout_s(self, new_batch_wait_timeout_s: float) -> None:
        """From the next batch on. Raises TypeError or ValueError, as ``batch`` does."""

    def recent_batches(self) -> tuple[BatchRecord, ...]:
        """The latest batches that this process has executed, oldest first."""
        ...


class BatchedFunction(_Settings, Protocol[R_co]):
    """Called with one item, gives the result for that item."""

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, R_co]: ...


class BatchedGenerator(_Settings, Protocol[R_co]):
    """Called with one item, gives the values for that item."""

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncGenerator[R_co]: ...


class _BatchDecorator(Protocol):
    @overload
    def __call__(self, _func: Callable[..., AsyncIterator[Iterable[R]]], /) -> BatchedGenerator[R]: ...
    @overload
    def __call__(self, _func: Callable[..., Coroutine[Any, Any, Iterable[R]]], /) -> BatchedFunction[R]: ...


@overload
def batch(_func: Callable[..., AsyncIterator[Iterable[R]]], /) -> BatchedGenerator[R]: ...
@overload
def batch(_func: Callable[..., Coroutine[Any, Any, Iterable[R]]], /) -> BatchedFunction[R]: ...
@overload
def batch(
    *,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
    isolate_errors: bool = False,
) -> _BatchDecorator: ...


def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
    *,
    isolate_errors: bool = False,
) -> Any:
    """Let an ``async def`` function or method that takes lists be called with one item at a time.

    Calls are collected, per event loop and per object, and given to the function together: each of its parameters
    is a list with one value for each call. It returns a list with one result for each call; or it is an async
    generator and yields such lists, in which ``StopIteration`` ends the stream of one call.

    Calls for different models (``multiplexed_model_id``), or made with other parameters, are never in one batch. A
    call whose caller was cancelled is left out, one whose request's deadline has passed raises RequestTimeoutError;
    a batch that nobody waits for any more is cancelled. An exception goes to every caller of the batch.

    Args:
        max_batch_size: how many calls a batch holds at most; with ``batch_size_fn``, how much it weighs at most.
        batch_wait_timeout_s: for how long the first call of a batch waits for others. It waits for less when its
            request's deadline or the end of the replica is near.
        max_concurrent_batches: how many batches are executed at the same time.
        batch_size_fn: the weight of a list of items (of the first parameter).
        isolate_errors: Salver's own. A batch that raises is executed again in halves, and so on, until only the
            items that raise by themselves fail. The function must not mind being called again for an item.

    Raises:
        TypeError: not an ``async def`` function, or a value of the wrong type.
        ValueError: a value out of range.
    """
    limits = (max_batch_size, batch_wait_timeout_s, max_concurrent_batches)
    BatchLimits(*limits)  # wrong ones are told of here, not where the decorator is applied
    if batch_size_fn is not None and not callable(batch_size_fn):
        raise TypeError(f"batch_size_fn={batch_size_fn!r}: must be a function of a list of items, or None")

    def decorate(function: Callable[..., Any], /) -> Any:
        streams = _check_function(function, isolate_errors=isolate_errors)
        code = BatchedCode(
            function, BatchLimits(*limits), batch_size_fn, streams=streams, isolate_errors=isolate_errors
        )
        return _with_settings(_stream_wrapper(code) if streams else _value_wrapper(code), code)

    return decorate if _func is None else decorate(_func)


def _check_function(function: object, *, isolate_errors: bool) -> bool:
    """Whether it is a generator function. Raises TypeError when it cannot be batched."""
    if not inspect.isroutine(function):
        raise TypeError("@serve.batch can only be used to decorate functions or methods.")
    streams = inspect.isasyncgenfunction(function)
    if not streams and not inspect.iscoroutinefunction(function):
        raise TypeError("Functions decorated with @serve.batch must be 'async def'")
    if streams and isolate_errors:
        raise TypeError("isolate_errors=True: not for generators, whose callers may have the first values already")
    return streams


def _value_wrapper(code: BatchedCode) -> Callable[..., Any]:
    @wraps(code.function)
    async def call_batched(*args: Any, **kwargs: Any) -> Any:
        answer = ValueAnswer(asyncio.get_running_loop())
        queue, call = _put(code, answer, args, kwargs)
        try:
            return await answer.future
        except asyncio.CancelledError:
            queue.leave(call)
            raise

    return call_batched


def _stream_wrapper(code: BatchedCode) -> Callable[..., Any]:
    """Like every async generator, it does nothing until it is iterated: one that never is holds no place."""

    @wraps(code.function)
    async def stream_batched(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        answer = StreamAnswer(asyncio.get_running_loop())
        queue, call = _put(code, answer, args, kwargs)
        try:
            async for value in answer:
                yield value
        except BaseException:  # GeneratorExit: the caller reads no further
            queue.leave(call)
            raise

    return stream_batched


def _put(code: BatchedCode, answer: Answer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[BatchQueue, Call]:
    owner = None
    if code.is_method_call(args):
        owner, *rest = args
        args = tuple(rest)
    if not args and not kwargs:
        raise TypeError(f"{code.name}() is batched: it takes an item, and was called without one")
    call = Call(args, kwargs, answer)
    code.check_weight(call)
    queue = batch_queue(code, owner)
    queue.put(call)
    return queue, call


def _with_settings(wrapper: Callable[..., Any], code: BatchedCode) -> Callable[..., Any]:
    """Bound methods of ours, not closures: they are pickled with ``code`` where the wrapper is pickled by value."""
    vars(wrapper).update(
        {
            CODE_ATTRIBUTE: code,
            "set_max_batch_size": code.limits.set_max_batch_size,
            "set_batch_wait_timeout_s": code.limits.set_batch_wait_timeout_s,
            "_get_max_batch_size": code.limits.get_max_batch_size,
            "_get_batch_wait_timeout_s": code.limits.get_batch_wait_timeout_s,
            "recent_batches": code.recent_batches,
        }
    )
    return wrapper
