"""One handle call, from the caller's side: an ``Exchange`` whose answer anybody in this process may wait for.

A call lives on the loop of its call site: it is started, answered and cancelled there. Whoever waits, in a task of
that loop, of another one, or in a thread, leaves a *waiter*, a future without a value; when something has come, every
waiter is released and looks for itself. One answer can thus be awaited many times, and one cancelled task takes the
answer away from nobody else: the call is cancelled when the last task that awaited it was.

A call ends once: answered, failed, cancelled, or out of time. Only a call that has a deadline has a timer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Generator
from types import coroutine
from typing import Any

import msgspec
from msgspec import Struct

from salver.data.calls.errors import rebuild_error
from salver.data.current import CallSite
from salver.data.replica.scope import RequestScope, request_scope
from salver.data.routing.pace import MOST_BYTES_AHEAD
from salver.data.routing.replica_link import Exchange, ReplicaLink
from salver.data.shared_memory import SharedMemoryGone, SharedPayload, load_shared
from salver.errors import ReplicaUnavailableError, RequestCancelledError, RequestTimeoutError, SerializationError
from salver.wire.frames import SHARED, Buffer, Frame, Kind
from salver.wire.messages import CallMeta, decode_error, encode
from salver.wire.payload import load_value

Send = Callable[[Exchange], None]
Waiter = asyncio.Future[None] | concurrent.futures.Future[None]

_CALL, _RESPONSE = int(Kind.CALL), int(Kind.RESPONSE)  # on Python 3.11 naming an enum's member costs 110 ns

_SHORTEST_S = 0.001  # what a call is given that leaves in the very moment of its deadline: 0 would mean no deadline


class OutgoingCall(Struct, eq=False):
    """A call on its way; its subclasses say what an answer is.

    Make it in the context of the request that calls, in any thread. What is said to be for the loop is for the call
    site's. A ``Struct`` although it is no record: to make an object of this many fields in Python takes four times
    as long.

    Attributes:
        site: how this process reaches deployments.
        key: ``app#deployment``.
        meta: what is called.
        deadline: until when, on the clock of ``time.monotonic``; None for as long as it takes.
        send: how it gets to a replica; None for any one, by the router.
        done: ended; what it ended with is there.
    """

    site: CallSite
    _key: str
    _meta: CallMeta
    _deadline: float | None = None
    _send: Send | None = None
    _payload: Buffer | SharedPayload = b""
    _link: ReplicaLink | None = None
    _stream: int = 0
    _error: BaseException | None = None
    _waiters: list[Waiter] = []  # each gets its own, as of all empty defaults of a Struct
    _timeout_s: float = 0.0
    _timer: asyncio.TimerHandle | None = None
    _scope: RequestScope | None = None
    abandoned: bool = False
    attempts: int = 0
    model_id: str = ""
    session_id: str = ""
    done: bool = False
    cancel_requested: bool = False

    def __post_init__(self) -> None:
        meta = self._meta
        self.model_id = meta.model_id
        self.session_id = meta.session_id
        if self._deadline is not None:
            self._timeout_s = round(self._deadline - time.monotonic(), 3)
        scope = self._scope = request_scope.get()
        if scope is not None:
            scope.add(self)

    __repr__ = object.__repr__

    @property
    def request_id(self) -> str:
        return self._meta.request_id

    # --- its life, on the loop --------------------------------------------------------------------------

    def start(self, payload: Buffer | SharedPayload) -> None:
        """Send it on its way, unless it has ended already."""
        if self._deadline is not None:
            self.watch_deadline()
        if not self.done:
            self._payload = payload
            if self._send is None:
                self.site.caller.submit(self._key, self)
            else:
                self._send(self)

    def watch_deadline(self) -> None:
        """Begin to count: ``start`` does it, or, earlier, whoever waits for the arguments."""
        if self._deadline is None or self._timer is not None or self.done:
            return
        left = self._deadline - time.monotonic()
        if left > 0:
            self._timer = self.site.loop.call_later(left, self._expired)
        else:
            self._expired()

    def _expired(self) -> None:
        had_s = self._timeout_s if self._timeout_s > 0 else None  # none at all: its request was out of time before
        self._give_up(RequestTimeoutError(self.request_id, had_s))

    def cancel(self) -> None:
        """Nobody wants the answer: it leaves the queue, or is cancelled in the replica."""
        self.cancel_requested = True
        self._give_up(RequestCancelledError(self.request_id))

    def _give_up(self, error: BaseException) -> None:
        if self.done:
            return
        link = self._link
        self.abandoned = True
        self._end(error)
        if link is not None:
            link.cancel(self._stream)

    def fail(self, error: BaseException) -> None:
        """End it with ``error``, unless it has ended already."""
        if not self.done:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self.done = True
        self._payload = b""
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._scope is not None:
            self._scope.discard(self)
            self._scope = None
        self._release_waiters()

    def raise_error(self) -> None:
        """Raise what it ended with, if that was an error."""
        error = self._error
        if error is not None:
            try:
                raise error.with_traceback(None)  # not those of all who have waited before
            finally:
                del self, error  # the traceback refers to this frame: no cycle, which would keep the user's values

    # --- waiting ----------------------------------------------------------------------------------------

    @coroutine  # not `async def`: a generator may `yield from` it without one more object in between
    def arrival(self) -> Generator[Any, None, None]:
        """Wait, in a task of any loop, until something may have come.

        When that task is cancelled, and was the last that waited, so is the call.
        """
        if self.site.is_here:
            waiter: Waiter = self.site.loop.create_future()
            self._waiters.append(waiter)  # nothing can have come since the one who waits has looked
            waiting = waiter
        else:
            waiter = self._waiter_elsewhere()
            waiting = asyncio.wrap_future(waiter)
        try:
            yield from waiting
        except BaseException:
            self.site.run(self._stop_waiting, waiter, True)
            raise

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait, in a thread without a running loop, until something may have come. Raises TimeoutError."""
        waiter = self._waiter_elsewhere()
        try:
            waiter.result(timeout_s)
        except BaseException:  # also Ctrl-C
            self.site.run(self._stop_waiting, waiter, False)
            raise

    def _waiter_elsewhere(self) -> concurrent.futures.Future[None]:
        waiter: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.site.loop.call_soon_threadsafe(self._add_waiter, waiter)
        return waiter

    def _add_waiter(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)
        if self._has_news():
            self._release_waiters()

    def _has_news(self) -> bool:
        return self.done

    def _release_waiters(self) -> None:
        if not self._waiters:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if isinstance(waiter, asyncio.Future):
                if not waiter.done():
                    waiter.set_result(None)
            elif waiter.set_running_or_notify_cancel():
                waiter.set_result(None)

    def _stop_waiting(self, waiter: Waiter, cancel_if_last: bool) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if cancel_if_last and not self._waiters:
                self.cancel()

    # --- Exchange ---------------------------------------------------------------------------------------

    @property
    def may_go_ahead(self) -> bool:
        payload = self._payload
        return not isinstance(payload, SharedPayload) and len(payload) <= MOST_BYTES_AHEAD

    @property
    def retryable(self) -> bool:
        return not self.done

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        meta = self._meta
        if self._deadline is not None:
            left = max(self._deadline - time.monotonic(), _SHORTEST_S)
            meta = msgspec.structs.replace(meta, remaining_s=left)
        assert link.channel is not None
        payload = self._payload
        if isinstance(payload, SharedPayload):
            link.channel.send(Kind.CALL, stream, encode(meta), payload.data, SHARED)
        else:
            ahead = link.pace.flag if len(payload) <= MOST_BYTES_AHEAD else 0
            link.channel.send(_CALL, stream, encode(meta), payload, ahead)

    def frame_received(self, frame: Frame) -> None:
        raise NotImplementedError

    def _unreadable(self, error: SerializationError, what: str = "the result") -> Exception:
        """What became of an answer that came and cannot be had."""
        if isinstance(error, SharedMemoryGone) and self._link is not None:
            return ReplicaUnavailableError(self._link.route.replica_id, "Its answer was in its memory.")
        method = f"{self._key.partition('#')[2]}.{self._meta.method}"
        unreadable = SerializationError(f"{what} of {method}: {error}")
        unreadable.__cause__ = error
        return unreadable

    def replica_lost(self, replica_id: str) -> None:
        self.fail(ReplicaUnavailableError(replica_id))

    def refused(self, error: Exception) -> None:
        self.fail(error)


class Call(OutgoingCall):
    """A call with one answer."""

    _value: Any = None
    """Set by a RESPONSE."""

    def outcome(self) -> Any:
        """The answer of a call that is ``done``: its value, or what it raised."""
        if self._error is None:
            return self._value
        try:
            self.raise_error()
        finally:
            del self

    def frame_received(self, frame: Frame) -> None:
        if self.done:
            return
        if frame.kind == _RESPONSE:
            try:
                self._value = load_shared(frame.payload) if frame.flags & SHARED else load_value(frame.payload)
            except SerializationError as error:
                self._end(self._unreadable(error))
            else:
                self._end(None)
        elif frame.kind == Kind.ERROR:
            self._end(rebuild_error(decode_error(frame.meta), frame.payload, self.request_id))
