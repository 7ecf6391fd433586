"""The calls of a batched function on one event loop: they wait here, and their batches are tasks of this loop.

``plan`` decides; a queue tells it what happens, sets its alarm clock, and runs what it closes. It looks at the
plan once in each turn of the loop, so calls made in the same turn meet in a batch even with a wait of 0.

Between two batches the model is idle. So where user code leaves the loop free while it works (a thread, a GPU,
another service), the next batch starts before the answers of this one are handed out, which takes as long as its
requests take to end. Where it blocks the loop, the answers go first: else they would wait for all of the next batch.

There is a queue for each event loop and each object whose method the function is (and for each replica, where tests
have several in one process). It lives from its first call until nothing waits and nothing runs, so it keeps neither
a user's object nor a loop alive, whether or not they can be referred to weakly. What outlives it belongs to
``BatchedCode``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from math import ceil, inf
from time import monotonic

from salver.data.context import ReplicaIdentity, replica_identity, request_context
from salver.data.replica.draining import on_drain
from salver.errors import RequestTimeoutError
from salver.serve.batching.call import Call
from salver.serve.batching.code import BatchedCode
from salver.serve.batching.plan import Batch, BatchPlan
from salver.serve.batching.record import BatchRecord, count_batch
from salver.serve.batching.run import batch_context, run_batch, run_stream_batch

_Key = tuple[int, int, int, int]
_queues: dict[_Key, BatchQueue] = {}
"""Those that live, by the ids of objects that they hold: nothing else can have these ids meanwhile."""


def batch_queue(code: BatchedCode, owner: object) -> BatchQueue:
    """The queue for calls on the running loop; ``owner`` is the object whose method it is, None for a function."""
    loop = asyncio.get_running_loop()
    identity = replica_identity.get()
    key = (id(code), id(owner), id(identity), id(loop))
    queue = _queues.get(key)
    if queue is None:
        _forget_abandoned()
        queue = _queues[key] = BatchQueue(code, owner, identity, loop)
    return queue


def _forget_abandoned() -> None:
    """Queues whose loop was closed under their calls."""
    for key, queue in list(_queues.items()):
        if queue.loop.is_closed():
            _queues.pop(key, None)


def close_batches_early(replica_id: str) -> None:
    """Close what waits for more calls in a replica that is leaving: nobody will come."""
    for queue in list(_queues.values()):
        if queue.identity is not None and queue.identity.replica_id == replica_id:
            queue.close_early()


on_drain(close_batches_early)


class _Execution:
    """A batch that is executed; ``calls`` are those of it that were still waited for."""

    __slots__ = ("batch", "calls", "closed", "execution_s", "left_waiting", "started", "suspended", "task")

    def __init__(self, batch: Batch[Call], calls: list[Call], closed: float) -> None:
        self.batch = batch
        self.calls = calls
        self.closed = closed
        self.started = closed
        self.suspended: float | None = None
        """When user code first left the loop to others; None when it has not."""
        self.execution_s: float | None = None
        """How long user code took for it; None while it has not returned."""
        self.left_waiting = 0
        """How many calls waited then."""
        self.task: asyncio.Task[None] | None = None

    def first_step_over(self) -> None:
        self.suspended = monotonic()

    def blocks_the_loop(self, now: float) -> bool:
        """Whether user code, which has just returned, held the loop for most of the time."""
        return self.suspended is None or (self.suspended - self.started) * 2 > now - self.started


class BatchQueue:
    """See the module. Made by ``batch_queue``; to be used on its loop only, except for ``close_early``."""

    def __init__(
        self,
        code: BatchedCode,
        owner: object,
        identity: ReplicaIdentity | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.identity = identity
        self.loop = loop
        self._code = code
        self._owner = owner
        self._function = code.function if owner is None else partial(code.function, owner)
        self._plan: BatchPlan[Call] = BatchPlan(code.limits, code.pace, code.weigh if code.batch_size_fn else None)
        self._executions: dict[Call, _Execution] = {}
        self._turn: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = inf

    # --- calls ------------------------------------------------------------------------------------------

    def put(self, call: Call) -> None:
        """It will be answered, unless it leaves."""
        self._plan.add(call, monotonic())
        self._look_soon()

    def leave(self, call: Call) -> None:
        """Its caller is gone: it is not executed, and a batch that nobody waits for any more is cancelled."""
        call.answer.cancel()
        execution = self._executions.get(call)
        if execution is None:
            self._plan.remove(call)
            self._look_soon()
        elif execution.task is not None and all(other.answer.is_over for other in execution.calls):
            execution.task.cancel()

    def close_early(self) -> None:
        """Close batches now that wait for more calls. From any thread."""
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop was closed under its calls
            _forget_abandoned()

    def _drain(self) -> None:
        self._plan.drain()
        self._look()

    # --- the plan ---------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        if self._turn is None:
            self._turn = self.loop.call_soon(self._look)

    def _look(self) -> bool:
        """Whether batches have begun."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        now = monotonic()
        decision = self._plan.poll(now)
        for call in decision.expired:
            call.answer.fail(RequestTimeoutError(call.request.request_id))
        for batch in decision.batches:
            self._start(batch, now)
        self._set_alarm(now)
        if self._plan.is_idle:
            self._end()
        return bool(decision.batches)

    def _set_alarm(self, now: float) -> None:
        """An alarm that comes too early is cheaper than setting it anew with every call."""
        wake_at = self._plan.wake_at()
        if wake_at >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        delay_ms = ceil((wake_at - now) * 1000)  # loops count milliseconds: a fraction earlier would be in vain
        self._alarm = self.loop.call_later(max(delay_ms, 1) / 1000, self._ring)
        self._alarm_at = wake_at

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = inf
        self._look()

    def _end(self) -> None:
        """Nothing is left; the next call makes another queue."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        key = (id(self._code), id(self._owner), id(self.identity), id(self.loop))
        if _queues.get(key) is self:
            del _queues[key]

    # --- batches ----------------------------------------------------------------------------------------

    def _start(self, batch: Batch[Call], now: float) -> None:
        calls = [call for call in batch.calls if not call.answer.is_over]
        if not calls:  # all of them were cancelled in this very turn
            self._plan.ended()
            self._look_soon()
            return
        context = calls[0].context
        context.run(request_context.set, batch_context([call.request for call in calls]))
        execution = _Execution(batch, calls, now)
        self._executions.update(dict.fromkeys(calls, execution))
        execution.task = self.loop.create_task(self._execute(execution), context=context)
        execution.task.add_done_callback(lambda _: self._ended(execution))
        self.loop.call_soon(execution.first_step_over)  # comes right after the task's first step

    async def _execute(self, execution: _Execution) -> None:
        execution.started = monotonic()
        if self._code.streams:
            await run_stream_batch(self._function, execution.calls)
        else:
            returned = partial(self._returned, execution)
            await run_batch(self._function, execution.calls, returned, isolate_errors=self._code.isolate_errors)

    async def _returned(self, execution: _Execution) -> None:
        """User code is done with this batch, which has no answers yet."""
        if not execution.blocks_the_loop(monotonic()):
            self._finish(execution)
            if self._look():  # user code begins in this turn; a thread of its gets the interpreter before the next
                await asyncio.sleep(0)
            self._record(execution)

    def _ended(self, execution: _Execution) -> None:
        task = execution.task
        assert task is not None
        error = None if task.cancelled() else task.exception()
        for call in execution.calls:
            del self._executions[call]
            if error is None:
                call.answer.cancel()  # of those who have none yet: the batch was cancelled
            else:
                call.answer.fail(error)
        execution.task = None  # it refers to its coroutine, and that to this
        if execution.execution_s is None:
            self._finish(execution)
            self._record(execution)
        self._look()

    def _finish(self, execution: _Execution) -> None:
        """There is room for another batch."""
        execution.execution_s = monotonic() - execution.started
        execution.left_waiting = self._plan.waiting
        self._plan.ended()
        self._code.pace.record(execution.execution_s)

    def _record(self, execution: _Execution) -> None:
        batch = execution.batch
        record = BatchRecord(
            function_name=self._code.name,
            size=len(execution.calls),
            reason=batch.reason,
            wait_s=execution.closed - execution.calls[0].arrived,
            execution_s=execution.execution_s or 0.0,
            utilization=batch.weight / batch.max_batch_size,
            left_waiting=execution.left_waiting,
        )
        self._code.history.append(record)
        count_batch(record, self.identity)
