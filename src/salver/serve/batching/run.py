"""One batch in user code: called with lists, its results handed out, one for each call.

With ``isolate_errors`` a batch that raised is executed again in two halves, and the halves likewise, until what
raises is alone: for one poisonous item among n that makes 2·log2(n) more executions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, cast

from salver.data.context import RequestContext
from salver.errors import ServeException
from salver.serve.batching.call import Call, StreamAnswer


async def run_batch(
    function: Callable[..., Any],
    calls: Sequence[Call],
    returned: Callable[[], Awaitable[None]] | None = None,
    *,
    isolate_errors: bool,
) -> None:
    """Await ``function`` with the calls' arguments as lists and answer each of them, with what it raises if it does.

    Args:
        returned: awaited when the whole batch has succeeded, before it is answered.

    Raises:
        asyncio.CancelledError: this task was cancelled; those without an answer still have none.
    """
    args, kwargs = _columns(calls)
    try:
        results = await function(*args, **kwargs)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever user code raises is the callers'
        if not isolate_errors or len(calls) == 1:
            _fail(calls, error)
            return
    except BaseException as error:  # noqa: BLE001 - SystemExit in a task would end the loop: it is the callers', too
        _fail(calls, error)
        return
    else:
        if returned is not None:
            await returned()
        _answer(calls, results)
        return
    middle = len(calls) // 2
    for half in (calls[:middle], calls[middle:]):
        awaited = [call for call in half if not call.answer.is_over]
        if awaited:
            await run_batch(function, awaited, isolate_errors=True)


def _answer(calls: Sequence[Call], results: Any) -> None:
    """A list of the wrong length is the code's fault, not an item's: everyone hears of it."""
    try:
        for call, result in zip(calls, _checked(results, len(calls)), strict=True):
            call.answer.give(result)
    except Exception as error:  # noqa: BLE001 - also what the user's own kind of list raises
        _fail(calls, error)


async def run_stream_batch(function: Callable[..., Any], calls: Sequence[Call]) -> None:
    """As ``run_batch``, for an async generator function that yields lists, each with one value for each call.

    A call's stream ends where its value is ``StopIteration`` or ``StopAsyncIteration`` (later values for it are
    ignored), and when the generator ends.
    """
    args, kwargs = _columns(calls)
    try:
        async with aclosing(function(*args, **kwargs)) as generator:
            async for values in generator:
                _hand_out(calls, _checked(values, len(calls)))
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - as above
        _fail(calls, error)
    else:
        for call in calls:
            cast(StreamAnswer, call.answer).end()


def _hand_out(calls: Sequence[Call], values: Iterable[Any]) -> None:
    for call, value in zip(calls, values, strict=True):
        answer = cast(StreamAnswer, call.answer)
        ends = value is StopIteration or value is StopAsyncIteration
        if ends or isinstance(value, StopIteration | StopAsyncIteration):
            answer.end()
        else:
            answer.give(value)


def _checked(results: Any, expected: int) -> Iterable[Any]:
    if not hasattr(results, "__len__"):
        raise ServeException(
            f"Batched function must give a list with one result for each item, not {type(results).__name__}."
        )
    if len(results) != expected:
        raise ServeException(
            f"Batched function doesn't preserve batch size. The input list has length {expected} but the returned "
            f"list has length {len(results)}."
        )
    return results


def _columns(calls: Sequence[Call]) -> tuple[list[list[Any]], dict[str, list[Any]]]:
    """All first arguments, all second ones, and so on. Calls of one batch have the same ones."""
    args = [[call.args[index] for call in calls] for index in range(len(calls[0].args))]
    kwargs = {name: [call.kwargs[name] for call in calls] for name in calls[0].kwargs}
    return args, kwargs


def _fail(calls: Iterable[Call], error: BaseException) -> None:
    for call in calls:
        call.answer.fail(error)


def batch_context(requests: Sequence[RequestContext]) -> RequestContext:
    """The request that a batch works for: what all of its requests agree on, until the last of their deadlines.

    So the model id is that of all (a batch has one), and a batch of several requests has no request id: code that
    it calls further down is given a new one, rather than that of one of them.
    """
    first = requests[0]
    if all(request is first for request in requests):
        return first
    deadlines = [request.deadline for request in requests]
    return RequestContext(
        route=first.route if _agree(request.route for request in requests) else "",
        request_id=first.request_id if _agree(request.request_id for request in requests) else "",
        app_name=first.app_name,
        is_http_request=False,
        deadline=None if None in deadlines else max(cast("list[float]", deadlines)),
        multiplexed_model_id=first.multiplexed_model_id,
        session_id=first.session_id if _agree(request.session_id for request in requests) else "",
    )


def _agree(values: Iterable[str]) -> bool:
    return len(set(values)) == 1
