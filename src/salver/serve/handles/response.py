"""What a handle call gives: an answer now or later, or a stream of items."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Generic, NoReturn, TypeVar

from salver.data.calls.call import Call
from salver.data.calls.streamed_call import StreamedCall

R_co = TypeVar("R_co", covariant=True)


class DeploymentResponse(Generic[R_co]):
    """The answer of a call, now or later: ``await response``, or ``response.result()`` where there is no loop.

    May be awaited several times, by several tasks, and passed as an argument of other calls without being awaited.
    When a task that awaits it is cancelled, and no other awaits it, the call is cancelled;
    ``asyncio.shield(response)`` prevents that.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        """Of the request at the root: the same in the logs of every deployment that works for it."""
        return self._call.request_id

    def __await__(self) -> Generator[Any, None, R_co]:
        """The callee's value, or its exception as the user's own class, with the remote traceback as its cause.

        Raises:
            RequestCancelledError: the call was cancelled.
            RequestTimeoutError: the deadline of the request that called has passed.
            BackPressureError, DeploymentUnavailableError: it was not started.
            ReplicaUnavailableError: the replica died meanwhile.
        """
        call = self._call
        if not call.done:
            yield from call.arrival()  # pyright: ignore[reportGeneralTypeIssues] - a generator, by @coroutine
        try:
            return call.outcome()
        finally:
            del self, call  # what it raises must not refer, through this frame, to the call that keeps it

    def result(self, *, timeout_s: float | None = None) -> R_co:
        """Wait for the value in a thread without a running loop.

        Args:
            timeout_s: seconds to wait, None for as long as it takes; the call goes on after a timeout.

        Raises:
            TimeoutError: it did not come in time.
            RuntimeError: called inside a running event loop, which it would block.

        Otherwise as ``await``.
        """
        refuse_in_loop("await response")
        call = self._call
        if not call.done:
            call.wait(timeout_s)
        try:
            return call.outcome()
        finally:
            del self, call  # as above

    def cancel(self) -> None:
        """Ask for the call to be cancelled, from any thread; returns at once. Does nothing when it has ended.

        A call that still waits for a replica never runs. One that runs in ``async def`` gets ``CancelledError`` at
        its next ``await``; a ``def`` runs on, and nobody hears its answer. What it has called through handles is
        cancelled too. Awaiting it raises ``RequestCancelledError`` from then on.
        """
        self._call.cancel_requested = True
        self._call.site.run(self._call.cancel)

    def cancelled(self) -> bool:
        """Whether it was cancelled, or asked to be: a call that was faster has its answer all the same."""
        return self._call.cancel_requested

    @property
    def by_reference(self) -> bool:
        """False: there is no object store; answers are copies, with large arrays in shared memory."""
        return False

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a DeploymentResponse cannot be pickled: await it first, or pass it as an argument (or inside a list, "
            "tuple or dict) of a handle call, which resolves it"
        )

    def __repr__(self) -> str:
        state = "done" if self._call.done else "pending"
        return f"DeploymentResponse(request_id='{self.request_id}', {state})"


class DeploymentResponseGenerator(Generic[R_co]):
    """The items of a call with ``options(stream=True)``: ``async for`` in a loop, ``for`` in a thread.

    Items come as the generator yields them; one that is not read stops it after 64 KiB. What it raises is raised
    here, after the items before. A generator that is dropped before its end is cancelled.
    """

    __slots__ = ("_call",)

    def __init__(self, call: StreamedCall) -> None:
        self._call = call

    @property
    def request_id(self) -> str:
        """Of the request at the root: the same in the logs of every deployment that works for it."""
        return self._call.request_id

    def __aiter__(self) -> DeploymentResponseGenerator[R_co]:
        return self

    async def __anext__(self) -> R_co:
        while (payload := self._call.take()) is None:
            await self._call.arrival()
        if not payload:
            raise StopAsyncIteration
        return self._call.load(payload)

    def __iter__(self) -> DeploymentResponseGenerator[R_co]:
        return self

    def __next__(self) -> R_co:
        refuse_in_loop("async for")
        while (payload := self._call.take()) is None:
            self._call.wait()
        if not payload:
            raise StopIteration
        return self._call.load(payload)

    def cancel(self) -> None:
        """Ask for the call to be cancelled, from any thread; returns at once.

        The generator in the replica is closed, and everything that it has called is cancelled. Asking for more items
        raises ``RequestCancelledError``.
        """
        self._call.cancel_requested = True
        self._call.site.run(self._call.cancel)

    def cancelled(self) -> bool:
        """Whether it was cancelled, or asked to be."""
        return self._call.cancel_requested

    def result(self, *, timeout_s: float | None = None) -> NoReturn:
        """A stream has no single result. Raises TypeError."""
        raise TypeError(
            "`DeploymentResponseGenerator` has no `.result()`: iterate over it, with `for` in a thread or "
            "`async for` in an event loop."
        )

    def __await__(self) -> NoReturn:
        raise TypeError("`DeploymentResponseGenerator` cannot be awaited: iterate over it with `async for`.")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a DeploymentResponseGenerator cannot be pickled: pass on its items")

    def __del__(self) -> None:
        call = self._call
        if not call.done:
            try:
                call.site.loop.call_soon_threadsafe(call.cancel)  # not now: this may be in the middle of anything
            except RuntimeError:
                pass  # the loop has ended, and the call with it

    def __repr__(self) -> str:
        state = "ended" if self._call.done else "open"
        return f"DeploymentResponseGenerator(request_id='{self.request_id}', {state})"


def refuse_in_loop(instead: str) -> None:
    """Raise RuntimeError when this thread runs an event loop, which waiting would block."""
    if asyncio._get_running_loop() is not None:  # pyright: ignore[reportPrivateUsage]
        raise RuntimeError(
            f"Sync methods should not be called from within an `asyncio` event loop. Use `{instead}` instead."
        )
