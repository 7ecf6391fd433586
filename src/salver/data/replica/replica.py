"""A replica: one user object, its slots, and the channels of everyone who calls it.

The replica alone decides what runs. A request that finds no free slot is answered BUSY before anything of it has
started, and its caller gets in line (``slots``).

To leave, it says GOAWAY to every caller, answers BUSY from then on, and exits when the last caller has hung up:
nothing that a caller sent before it read GOAWAY is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any, cast

from msgspec.structs import replace

from salver.data.channel import Channel
from salver.data.context import ReplicaIdentity, ReplicaRank, RequestContext, replica_identity, request_context
from salver.data.load_board import LoadBoard
from salver.data.metrics_push import MetricsPush
from salver.data.replica.asgi import HTTPExchange
from salver.data.replica.commands import Commands
from salver.data.replica.draining import announce_drain
from salver.data.replica.hooks import UserHooks
from salver.data.replica.invocation import Invocation, invoke_call, invoke_http
from salver.data.replica.models import ReplicaModels
from salver.data.replica.scope import RequestScope
from salver.data.replica.slots import Slots, load_of
from salver.data.replica.standing import standing
from salver.data.replica.user_code import UserCode
from salver.data.replica.wear import Wear
from salver.data.request_metrics import ReplicaRequests
from salver.errors import ProtocolError
from salver.records import CodeContext, DeploymentSpec, LoggingSpec
from salver.wire.frames import AHEAD, Frame, Kind
from salver.wire.messages import Constructed, ErrorKind, Initialize, Reconfigure, Worn, decode_call, encode

logger = logging.getLogger("salver.replica")
access_logger = logging.getLogger("salver.access")

_REQUEST, _CALL = int(Kind.REQUEST), int(Kind.CALL)  # on Python 3.11 naming an enum's member costs 110 ns

CONTROLLER = "controller"
"""What the controller calls itself in its hello: the one whose channel may stay when a replica has drained."""


class Replica:
    """Serves one user object.

    Args:
        key: session key that every caller's hello must hold.
        board, slot: where the number of running requests is published.
        prepare: makes the user's modules importable, before the definition is unpickled.
        metrics: sends this process's to the controller; closed with this. None where the controller sees them itself.
        on_logging: told when the deployment is to log in another way than before; None is as the instance.
    """

    def __init__(
        self,
        *,
        key: bytes,
        board: LoadBoard,
        slot: int,
        prepare: Callable[[CodeContext], None],
        metrics: MetricsPush | None = None,
        on_logging: Callable[[LoggingSpec | None], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._key = key
        self._prepare = prepare
        self._metrics = metrics
        self._on_logging = on_logging
        self._requests: ReplicaRequests | None = None
        self._slots = Slots(board.cells, slot, self._begin)
        self._models = ReplicaModels(self._models_changed, self._is_running)
        self._commands = Commands(self)
        self._wear = Wear(self._worn, lambda: board.rss[slot])
        self._report = b""
        """For the controller, whenever one is there: that this replica should be replaced."""
        self._user: UserCode | None = None
        self._hooks: UserHooks | None = None
        self._settings: DeploymentSpec | None = None
        self._identity = ReplicaIdentity("", "", "")
        self._channels: set[Channel] = set()
        self._running: dict[tuple[Channel, int], Invocation] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        """Requests that were cancelled, and run on."""
        self.initializing = ErrorKind.CONSTRUCTOR
        self._context = contextvars.Context()
        """What every request starts from: variables that say where it runs, and nothing of another request."""
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
        is_controller = channel.sender == CONTROLLER
        if is_controller and self._metrics is not None:
            self._metrics.add(channel)
        if self._draining:
            channel.send(Kind.GOAWAY)
        elif self._slots.capacity and not is_controller:
            channel.send(Kind.SLOTS, load=load_of(self._slots.capacity))
        if is_controller and self._report:
            channel.send(Kind.REPORT, 0, self._report)
        if self._models.ids and not is_controller:
            channel.send(Kind.MODELS, 0, encode(self._models.ids))

    def _models_changed(self, ids: tuple[str, ...]) -> None:
        meta = encode(ids)
        for channel in self._channels:
            if channel.sender and channel.sender != CONTROLLER:
                channel.send(Kind.MODELS, 0, meta)

    def _worn(self, reason: str) -> None:
        logger.warning("this replica asks to be replaced: %s", reason)
        self._report = encode(Worn(reason))
        for channel in self._channels:
            if channel.sender == CONTROLLER:
                channel.send(Kind.REPORT, 0, self._report)

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
        running = [invocation.task for invocation in self._running.values() if invocation.task is not None]
        tasks = [*running, *self._abandoned]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._commands.close()
        self._wear.close()
        if self._metrics is not None:
            self._metrics.close()
        for channel in list(self._channels):
            channel.close()
        self._slots.clear()
        await self._models.close()
        if self._user is not None:
            await self._user.stop(0.0 if self._settings is None else self._settings.graceful_shutdown_timeout_s)
            self._user = None

    # --- frames -----------------------------------------------------------------------------------------

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        kind = frame.kind
        if kind in (_CALL, _REQUEST):
            self._start(channel, frame)
        elif kind == Kind.BODY or kind == Kind.CREDIT:
            invocation = self._running.get((channel, frame.stream))
            if invocation is not None and invocation.exchange is not None:
                exchange = invocation.exchange
                (exchange.body_received if kind == Kind.BODY else exchange.credit_received)(frame)
        elif kind == Kind.CANCEL:
            self._cancel(channel, frame)
        elif kind == Kind.WAIT:
            self._slots.wait(channel)
        elif kind == Kind.DECLINE:
            self._slots.decline(channel)
        elif kind == Kind.CONTROL:
            self._commands.received(channel, frame)
        elif kind == Kind.RELEASE:
            channel.value_released(frame)

    def channel_lost(self, channel: Channel) -> None:
        self._channels.discard(channel)
        for key in [key for key in self._running if key[0] is channel]:
            self._abandon(key)
        self._slots.forget(channel)
        self._check_drained()

    # --- requests ---------------------------------------------------------------------------------------

    def _start(self, channel: Channel, frame: Frame) -> None:
        if (channel, frame.stream) in self._running or self._slots.keeps(channel, frame.stream):
            raise ProtocolError(f"stream {frame.stream} is in use")  # the first one could not be cancelled any more
        if self._slots.take(channel):
            self._begin(channel, frame)
        elif not (frame.flags & AHEAD and self._slots.keep(channel, frame)):
            self._refuse(channel, frame.stream)

    def _refuse(self, channel: Channel, stream: int) -> None:
        """It has not started; its caller may send it elsewhere, or again when there is a slot."""
        channel.send(Kind.BUSY, stream, load=self._slots.load)
        if not self._draining:
            self._slots.wait(channel)

    def _begin(self, channel: Channel, frame: Frame) -> None:
        """In a slot that has been taken."""
        exchange = HTTPExchange(channel, frame) if frame.kind == _REQUEST else None
        invocation = self._running[channel, frame.stream] = Invocation(channel, frame.stream, exchange)
        invocation.task = self._loop.create_task(self._run(invocation, frame), context=self._context.copy())

    async def _run(self, invocation: Invocation, frame: Frame) -> None:
        user, requests = self._user, self._requests
        assert user is not None  # slots open when there is one
        assert requests is not None
        started = time.perf_counter()
        requests.call_started()
        try:
            if isinstance(invocation.exchange, HTTPExchange):
                await invoke_http(invocation.exchange, invocation, user, self._identity.app_name, frame)
            else:
                await invoke_call(invocation, user, self._identity.app_name, frame)
        finally:
            route = request_context.get().route
            seconds = time.perf_counter() - started
            requests.call_ended(route, seconds, invocation.exception_type)
            self._models.request_ended(invocation)
            self._ended(invocation)
            invocation.channel.flush_alone()  # with the slot: whoever reads the answer finds that free
            if frame.kind == _CALL and access_logger.isEnabledFor(logging.DEBUG):
                outcome = "ERROR" if invocation.exception_type else "OK"
                access_logger.debug("CALL %s %s %.1fms", decode_call(frame.meta).method, outcome, seconds * 1000)

    def _ended(self, invocation: Invocation) -> None:
        self._running.pop((invocation.channel, invocation.stream), None)
        if invocation.abandoned and invocation.task is not None:
            self._abandoned.discard(invocation.task)
        invocation.task = None  # it refers to its context variables, and those to the invocation
        if invocation.grace is not None:
            invocation.grace.cancel()
            invocation.grace = None
        self._slots.give_back()
        if self._wear.served_at_most is not None:
            self._wear.request_ended()
        if self._draining:
            self._check_drained()

    def _is_running(self, request: RequestScope) -> bool:
        return isinstance(request, Invocation) and request.task is not None

    def _cancel(self, channel: Channel, frame: Frame) -> None:
        if self._slots.drop(channel, frame.stream):
            if frame.flags & AHEAD:
                self._refuse(channel, frame.stream)
        elif not frame.flags & AHEAD:
            self._abandon((channel, frame.stream))

    def _abandon(self, key: tuple[Channel, int]) -> None:
        """Nobody waits for the answer any more."""
        invocation = self._running.get(key)
        if invocation is None or invocation.task is None:
            return
        if isinstance(invocation.exchange, HTTPExchange) and invocation.exchange.finished:
            return  # answered: what still runs is its background task
        del self._running[key]
        self._abandoned.add(invocation.task)
        invocation.abandon()
        coroutine = cast("CoroutineType[Any, Any, None]", invocation.task.get_coro())
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            # Cancelled before its first step, a task never enters its coroutine, nor the `finally` in there.
            invocation.task.add_done_callback(lambda _: self._ended(invocation))
        elif self._settings is not None:
            grace_s = self._settings.cancel_grace_s
            invocation.grace = self._loop.call_later(grace_s, self._ignores_cancellation, invocation, grace_s)

    def _ignores_cancellation(self, invocation: Invocation, grace_s: float) -> None:
        """It holds a slot that nobody can free; a draining replica will be killed for it soon enough."""
        where = "" if invocation.task is None or self._draining else standing(invocation.task)
        if where:
            name = self._identity.deployment
            self._wear.tell(f"a request of {name} has ignored its cancellation for {grace_s:g} s: {where}")

    # --- what the controller asks (``Commands``) ---------------------------------------------------------------

    async def initialize(self, message: Initialize) -> None:
        """Construct the user's object, and take requests when it is well. Raises what the user's code raises."""
        spec = message.deployment
        identity = ReplicaIdentity(
            spec.id.app, spec.id.name, message.replica_id, spec.version, spec.num_replicas, rank=_place(message.rank)
        )
        self._enter(identity)
        self._models.open(message.replica_id)
        self._prepare(spec.code or message.application.code)
        user = await UserCode.construct(spec.definition, threads=spec.max_ongoing_requests, name=spec.id.name)
        self._user = user  # from here on ``close`` shuts it down
        self._settings = replace(spec, definition=b"")
        identity = replace(identity, servable_object=user.target)
        self._become(identity)
        self._enter(identity)
        hooks = UserHooks(user.target)
        self.initializing = ErrorKind.RECONFIGURE
        await hooks.reconfigure(spec.user_config, identity.rank)
        self.initializing = ErrorKind.FIRST_CHECK
        if hooks.checks_health:
            await _in_time(hooks, spec.health_check_timeout_s)
        self._hooks = hooks
        self._requests = ReplicaRequests(identity)
        self._follow(spec)
        self.constructed.set()

    def constructed_as(self) -> Constructed:
        """What only the constructed object can say."""
        hosted = self._user.asgi_app if self._user is not None else None
        docs_path = hosted.docs_path if hosted is not None else ""
        rank = -1 if self._identity.rank is None else self._identity.rank.rank
        hooks = self._constructed_hooks()
        return Constructed(docs_path, hooks.checks_health, hooks.records_stats, rank)

    async def reconfigure(self, message: Reconfigure) -> None:
        """Be as it says, all or nothing. Raises what the user's ``reconfigure`` raises."""
        spec = message.deployment
        identity = replace(self._identity, world_size=spec.num_replicas, rank=_place(message.rank))
        self._enter(identity)
        await self._constructed_hooks().reconfigure(spec.user_config, identity.rank)
        self._become(identity)
        if self._on_logging is not None and self._settings is not None and spec.logging != self._settings.logging:
            self._on_logging(spec.logging)
        self._settings = replace(spec, definition=b"")
        self._follow(spec)

    async def check_health(self) -> None:
        """Raises what the user's ``check_health`` raises."""
        self._enter(self._identity)
        await self._constructed_hooks().check_health()

    async def record_stats(self) -> dict[str, float]:
        """Raises what the user's ``record_autoscaling_stats`` raises, or that it gave no numbers."""
        self._enter(self._identity)
        return await self._constructed_hooks().record_stats()

    def _constructed_hooks(self) -> UserHooks:
        assert self._hooks is not None  # ``Commands`` asks nothing before
        return self._hooks

    def _become(self, identity: ReplicaIdentity) -> None:
        """What requests that start from now on are told."""
        self._identity = identity
        self._context.run(replica_identity.set, identity)

    def _enter(self, identity: ReplicaIdentity) -> None:
        """Make the current task's code that of this replica, and of no request."""
        replica_identity.set(identity)
        request_context.set(RequestContext(app_name=identity.app_name))

    def _follow(self, spec: DeploymentSpec) -> None:
        """Let as many requests run as it says, for as long as it says."""
        assert self._user is not None
        self._user.resize(spec.max_ongoing_requests)
        self._wear.limit(spec.max_requests, spec.max_rss_bytes)
        if not self._draining:
            for channel in self._channels:
                if channel.sender and channel.sender != CONTROLLER:
                    channel.send(Kind.SLOTS, load=load_of(spec.max_ongoing_requests))
            self._slots.open(spec.max_ongoing_requests)


def _place(rank: int) -> ReplicaRank | None:
    """All replicas of this engine are on one node."""
    return None if rank < 0 else ReplicaRank(rank, 0, rank)


async def _in_time(hooks: UserHooks, timeout_s: float) -> None:
    """The first ``check_health``. Raises TimeoutError when it takes longer, or what it raises."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            await hooks.check_health()
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"check_health did not return within {timeout_s:g} s") from None
