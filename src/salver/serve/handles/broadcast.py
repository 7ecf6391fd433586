"""One call to every replica of a deployment: ``handle.broadcast``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from functools import partial
from typing import Any

from salver.data.calls.call import Call
from salver.data.context import request_context
from salver.data.current import CallSite, call_site
from salver.serve.handles.arguments import hold_response
from salver.serve.handles.calling import call_meta
from salver.serve.handles.options import HandleOptions
from salver.serve.handles.response import DeploymentResponse, refuse_in_loop
from salver.wire.frames import Buffer
from salver.wire.payload import dump_value


class DeploymentBroadcastResponse:
    """The answers of all replicas, in no particular order: ``await`` it, or ``.results()`` where there is no loop."""

    __slots__ = ("_sent",)

    def __init__(self, key: str, options: HandleOptions, payload: Buffer) -> None:
        self._sent = asyncio.run_coroutine_threadsafe(
            _send_to_all(call_site(), key, options, payload), call_site().loop
        )

    def results(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Wait for all answers in a thread without a running loop.

        Args:
            timeout_s: seconds to wait, None for as long as it takes; the calls go on after a timeout.
            return_exceptions: give exceptions among the answers, instead of raising the first.

        Raises:
            TimeoutError: they did not all come in time.
            DeploymentUnavailableError: there is no such deployment.
            RuntimeError: called inside a running event loop.
        """
        refuse_in_loop("await broadcast")
        until = None if timeout_s is None else time.monotonic() + timeout_s
        calls = self._sent.result(timeout_s)
        for call in calls:
            if not call.done:
                call.wait(None if until is None else max(0.0, until - time.monotonic()))
        return [_outcome(call, return_exceptions=return_exceptions) for call in calls]

    async def results_async(self, *, timeout_s: float | None = None, return_exceptions: bool = False) -> list[Any]:
        """Wait for all answers in an event loop; arguments as for ``results``.

        A timeout, like any cancellation of the task that waits, cancels the calls that have not answered.
        """
        async with asyncio.timeout(timeout_s):
            calls = await asyncio.shield(asyncio.wrap_future(self._sent))
            responses = [DeploymentResponse[Any](call) for call in calls]
            return list(await asyncio.gather(*responses, return_exceptions=return_exceptions))

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.results_async().__await__()


async def _send_to_all(site: CallSite, key: str, options: HandleOptions, payload: Buffer) -> list[Call]:
    """To every replica in the routing table, also those that are being dialled."""
    site.caller.start()
    router = await site.caller.find_router(key)
    context = request_context.get()
    calls: list[Call] = []
    for replica_id in site.caller.listed_replicas(key):
        send = partial(router.submit_to, replica_id)
        calls.append(Call(site, key, call_meta(options, context), context.deadline, send))
        calls[-1].start(payload)
    return calls


def _outcome(call: Call, *, return_exceptions: bool) -> Any:
    try:
        return call.outcome()
    except Exception as error:
        if return_exceptions:
            return error
        raise


def begin_broadcast(
    key: str, options: HandleOptions, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> DeploymentBroadcastResponse:
    """Call every replica of ``key``. Raises SerializationError, or TypeError for responses among the arguments."""
    if hold_response(args) | hold_response(kwargs):
        raise TypeError("broadcast() takes values: await the DeploymentResponse among its arguments first")
    return DeploymentBroadcastResponse(key, options, dump_value((args, kwargs), "the arguments of a broadcast"))
