"""A replica: one user object, its slots, and the channels of everyone who calls it.

The replica alone decides what runs. A request that finds no free slot is answered BUSY before anything of it has
started, and its caller gets in line (``slots``).

To leave, it says GOAWAY to every caller, answers BUSY from then on, and exits when the last caller has hung up:
nothing that a caller sent before it read GOAWAY is lost.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any, cast

import msgspec

from salver.data.channel import Channel
from salver.data.context import ReplicaIdentity, RequestContext, replica_identity, request_context
from salver.data.load_board import LoadBoard
from salver.data.metrics_push import MetricsPush
from salver.data.replica.asgi import HTTPExchange
from salver.data.replica.draining import announce_drain
from salver.data.replica.failure_text import user_traceback
from salver.data.replica.invocation import Invocation, invoke_call, invoke_http
from salver.data.replica.models import ReplicaModels
from salver.data.replica.scope import RequestScope
from salver.data.replica.slots import Slots
from salver.data.replica.user_code import UserCode
from salver.data.request_metrics import ReplicaRequests
from salver.errors import ProtocolError
from salver.records import CodeContext
from salver.wire.error_text import text_of
from salver.wire.frames import Frame, Kind
from salver.wire.messages import Constructed, Drain, ErrorKind, ErrorMeta, Initialize, decode_control, encode

CONTROLLER = "controller"
"""What the controller calls itself in its hello: the one whose channel may stay when a replica has drained."""


class Replica:
    """Serves one user object.

    Args:
        key: session key that every caller's hello must hold.
        board, slot: where the number of running requests is published.
        prepare: makes the user's modules importable, before the definition is unpickled.
        metrics: sends this process's to the controller; closed with this. None where the controller sees them itself.
    """

    def __init__(
        self,
        *,
        key: bytes,
        board: LoadBoard,
        slot: int,
        prepare: Callable[[CodeContext], None],
        metrics: MetricsPush | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._key = key
        self._prepare = prepare
        self._metrics = metrics
        self._requests: ReplicaRequests | None = None
        self._slots = Slots(board.cells, slot)
        self._models = ReplicaModels(self._models_changed, self._is_running)
        self._user: UserCode | None = None
        self._stop_within_s = 0.0
        self._identity = ReplicaIdentity("", "", "")
        self._initialized: asyncio.Task[None] | None = None
        self._channels: set[Channel] = set()
        self._running: dict[tuple[Channel, int], Invocation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.constructed = asyncio.Event()
        self.drained = asyncio.Event()
        """Set when, after a drain, nothing runs and no caller is connected."""

    def accept(self) -> Channel:
        """A channel for a caller that dials."""
        channel = Channel(self, expect_key=self._key, on_hello=self._greet)
        self._channels.add(channel)
        return channel

    def _greet(self, channel: Channel) -> None:
        if self._metrics is not None and channel.sender == CONTROLLER:
            self._metrics.add(channel)
        if self._draining:
            channel.send(Kind.GOAWAY)
        if self._models.ids and channel.sender != CONTROLLER:
            channel.send(Kind.MODELS, 0, encode(self._models.ids))

    def _models_changed(self, ids: tuple[str, ...]) -> None:
        meta = encode(ids)
        for channel in self._channels:
            if channel.sender and channel.sender != CONTROLLER:
                channel.send(Kind.MODELS, 0, meta)

    def drain(self) -> None:
        """Take nothing new; ``drained`` is set when the last caller has hung up."""
        if self._draining:
            return
        self._draining = True
        self._slots.close()
        for channel in self._channels:
            if channel.sender:
                channel.send(Kind.GOAWAY)
        announce_drain(self._identity.replica_id)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._draining and not self._slots.running and all(c.sender == CONTROLLER for c in self._channels):
            self.drained.set()

    async def close(self) -> None:
        """Cancel what runs and let the user's object go. May be called twice."""
        tasks = list(self._tasks)
        if self._initialized is not None:
            tasks.append(self._initialized)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._metrics is not None:
            self._metrics.close()
        for channel in list(self._channels):
            channel.close()
        self._slots.clear()
        await self._models.close()
        if self._user is not None:
            await self._user.stop(self._stop_within_s)
            self._user = None

    # --- frames -----------------------------------------------------------------------------------------

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.REQUEST or kind == Kind.CALL:
            self._start(channel, frame)
        elif kind == Kind.BODY or kind == Kind.CREDIT:
            invocation = self._running.get((channel, frame.stream))
            if invocation is not None and invocation.exchange is not None:
                exchange = invocation.exchange
                (exchange.body_received if kind == Kind.BODY else exchange.credit_received)(frame)
        elif kind == Kind.CANCEL:
            self._cancel((channel, frame.stream))
        elif kind == Kind.WAIT:
            self._slots.wait(channel)
        elif kind == Kind.DECLINE:
            self._slots.decline(channel)
        elif kind == Kind.CONTROL:
            self._control(channel, frame)
        elif kind == Kind.RELEASE:
            channel.value_released(frame)

    def channel_lost(self, channel: Channel) -> None:
        self._channels.discard(channel)
        for key in [key for key in self._running if key[0] is channel]:
            self._cancel(key)
        self._slots.forget(channel)
        self._check_drained()

    # --- requests ---------------------------------------------------------------------------------------

    def _start(self, channel: Channel, frame: Frame) -> None:
        if (channel, frame.stream) in self._running:
            raise ProtocolError(f"stream {frame.stream} is in use")  # the first one could not be cancelled any more
        if not self._slots.take(channel):
            channel.send(Kind.BUSY, frame.stream, load=self._slots.load)
            return
        exchange = HTTPExchange(channel, frame) if frame.kind == Kind.REQUEST else None
        invocation = Invocation(channel, frame.stream, exchange)
        self._running[channel, frame.stream] = invocation
        invocation.task = self._loop.create_task(self._run(invocation, frame))
        self._tasks.add(invocation.task)

    async def _run(self, invocation: Invocation, frame: Frame) -> None:
        user, requests = self._user, self._requests
        assert user is not None  # slots open when there is one
        assert requests is not None
        started = time.perf_counter()
        requests.call_started()
        try:
            if isinstance(invocation.exchange, HTTPExchange):
                await invoke_http(invocation.exchange, invocation, user, self._identity, frame)
            else:
                await invoke_call(invocation, user, self._identity, frame)
        finally:
            route = request_context.get().route
            requests.call_ended(route, time.perf_counter() - started, invocation.exception_type)
            self._models.request_ended(invocation)
            self._ended(invocation)

    def _ended(self, invocation: Invocation) -> None:
        self._running.pop((invocation.channel, invocation.stream), None)
        if invocation.task is not None:
            self._tasks.discard(invocation.task)
            invocation.task = None  # it refers to its context variables, and those to the invocation
        self._slots.give_back()
        if self._draining:
            self._check_drained()

    def _is_running(self, request: RequestScope) -> bool:
        return isinstance(request, Invocation) and request.task in self._tasks

    def _cancel(self, key: tuple[Channel, int]) -> None:
        invocation = self._running.get(key)
        if invocation is None or invocation.task is None:
            return
        if isinstance(invocation.exchange, HTTPExchange) and invocation.exchange.finished:
            return  # answered: what still runs is its background task
        del self._running[key]
        invocation.abandon()
        coroutine = cast("CoroutineType[Any, Any, None]", invocation.task.get_coro())
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            # Cancelled before its first step, a task never enters its coroutine, nor the `finally` in there.
            invocation.task.add_done_callback(lambda _: self._ended(invocation))

    # --- control ----------------------------------------------------------------------------------------

    def _control(self, channel: Channel, frame: Frame) -> None:
        message = decode_control(bytes(frame.payload))
        if isinstance(message, Initialize):
            if self._initialized is None:
                self._initialized = asyncio.create_task(self._initialize(message))
            answer = asyncio.create_task(self._answer_initialize(channel, frame.stream, self._initialized))
            self._tasks.add(answer)
            answer.add_done_callback(self._tasks.discard)
        else:
            assert isinstance(message, Drain)
            channel.send(Kind.RESPONSE, frame.stream)
            self.drain()

    async def _initialize(self, message: Initialize) -> None:
        spec = message.deployment
        identity = ReplicaIdentity(spec.id.app, spec.id.name, message.replica_id, spec.version, spec.num_replicas)
        replica_identity.set(identity)
        request_context.set(RequestContext(app_name=spec.id.app))
        self._models.open(message.replica_id)
        self._prepare(message.application.code)
        self._stop_within_s = spec.graceful_shutdown_timeout_s
        user = await UserCode.construct(spec.definition, threads=spec.max_ongoing_requests, name=spec.id.name)
        self._user = user  # from here on ``close`` shuts it down
        if spec.user_config is not None:
            await user.reconfigure(spec.user_config)
        self._identity = identity = msgspec.structs.replace(identity, servable_object=user.target)
        self._requests = ReplicaRequests(identity)
        self.constructed.set()
        if not self._draining:
            self._slots.open(spec.max_ongoing_requests)

    async def _answer_initialize(self, channel: Channel, stream: int, initialized: asyncio.Task[None]) -> None:
        await asyncio.wait({initialized})  # raising its error here would cut the traceback for those who ask again
        error = initialized.exception()
        if error is None:
            hosted = self._user.asgi_app if self._user is not None else None
            channel.send(Kind.RESPONSE, stream, encode(Constructed(hosted.docs_path if hosted is not None else "")))
        else:
            text = user_traceback(error)
            meta = ErrorMeta(ErrorKind.CONSTRUCTOR, type(error).__qualname__, text_of(error), text)
            channel.send(Kind.ERROR, stream, encode(meta))
