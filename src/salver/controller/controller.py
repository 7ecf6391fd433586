"""The controller: feeds events to the pure core, carries out its commands, tells everyone what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any

from salver.control.application import conflicting_application
from salver.control.cluster import Cluster
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    DrainReplica,
    Event,
    FoundProcess,
    InitializeReplica,
    KillReplica,
    ProcessExited,
    ProcessStarted,
    Publish,
    Recover,
    SaveTarget,
    StartFailed,
    StartReplica,
    Tick,
)
from salver.controller.checkpoint import Checkpoint
from salver.controller.constructors import Constructors
from salver.controller.metrics_store import MetricsStore
from salver.controller.publisher import Publisher
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.data.channel import Connect
from salver.engine.interface import Engine, EngineEvent, Exited, NotStarted, ReplicaProcess, Started
from salver.errors import ServeException
from salver.records import ApplicationSpec
from salver.telemetry.metrics import registry
from salver.views import ApplicationView
from salver.wire.messages import Drain

logger = logging.getLogger("salver.controller")

_SUFFIX_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look like another
_SETTLED = frozenset({"RUNNING", "DEPLOY_FAILED"})


class PrefixTaken(ServeException):
    """Another application has the route prefix."""


class Controller:
    """One instance's controller.

    Args:
        engine: where replicas run.
        checkpoint: where the target is kept.
        connect: how replicas are dialled.
        key: the instance's session key.
        epoch: which controller of this instance it is; grows.
    """

    def __init__(self, *, engine: Engine, checkpoint: Checkpoint, connect: Connect, key: bytes, epoch: int) -> None:
        self._engine = engine
        self._checkpoint = checkpoint
        self._connect = connect
        self._key = key
        self._cluster = Cluster(
            epoch=epoch,
            new_suffix=_new_suffix,
            jitter=random.random,
            wall_clock_offset=time.time() - time.monotonic(),
        )
        self.metrics = MetricsStore(registry)
        self.publisher = Publisher(key, self.metrics)
        self._clients: dict[str, ReplicaClient] = {}
        self._constructors = Constructors(engine, self._client, self.handle)
        self._killed: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._ending = False
        self._early_events: list[EngineEvent] | None = []

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: the saved target and the replicas that already run."""
        self._engine.open(self._engine_event)
        target = self._checkpoint.load()
        processes = tuple(_found(process) for process in await self._engine.processes())
        self.handle(Recover(target, processes))
        early, self._early_events = self._early_events or [], None
        for event in early:
            self._engine_event(event)

    def end_waits(self) -> None:
        """Answer everyone who waits for a change now: none will come."""
        self._ending = True
        self._changed.set()

    async def stop(self) -> None:
        """Let go of everything; replicas stay. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for client in self._clients.values():
            client.close()
        self.publisher.close()
        await self._engine.close()
        self._checkpoint.close()

    # --- what users ask for -----------------------------------------------------------------------------

    def deploy(self, spec: ApplicationSpec) -> None:
        """Accept an application. Raises PrefixTaken."""
        holder = conflicting_application(spec, self._cluster.target().applications)
        if holder is not None:
            raise PrefixTaken(
                f'Prefix {spec.route_prefix} is being used by application "{holder}". '
                f'Failed to deploy application "{spec.name}".'
            )
        self.handle(DeployApplication(spec))

    def delete(self, name: str) -> None:
        self.handle(DeleteApplication(name))

    def views(self) -> tuple[ApplicationView, ...]:
        return self._cluster.views(time.monotonic())

    async def proxy_pids(self) -> list[int]:
        return await self._engine.proxy_pids()

    async def wait_until_settled(self, name: str, timeout_s: float) -> bool:
        """Wait until an application runs or has failed; whether it has in time."""
        return await self._wait_until(
            lambda: all(view.status in _SETTLED for view in self.views() if view.name == name), timeout_s
        )

    async def wait_until_gone(self, name: str, timeout_s: float) -> bool:
        """Wait until nothing is left of an application; whether it is so in time."""
        return await self._wait_until(lambda: all(view.name != name for view in self.views()), timeout_s)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for something that events change; whether it came true in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not condition():
            remaining = deadline - loop.time()
            if remaining <= 0 or self._ending:
                return False
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), remaining)
            except TimeoutError:
                return condition()
        return True

    # --- events and commands ----------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Tell the core, do what it says, set the alarm for when it wants to be woken."""
        for command in self._cluster.handle(event, time.monotonic()):
            self._carry_out(command)
        self._changed.set()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._cluster.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.handle, Tick())

    def _engine_event(self, event: EngineEvent) -> None:
        if self._early_events is not None:  # a replica that dies while we take over: Recover comes first
            self._early_events.append(event)
        elif isinstance(event, Started):
            process = event.process
            self.handle(ProcessStarted(process.replica_id, process.pid, process.address))
        elif isinstance(event, NotStarted):
            logger.error("replica %s could not be started: %s", event.replica_id, event.reason)
            self.handle(StartFailed(event.replica_id, event.reason))
        else:
            assert isinstance(event, Exited)
            self._forget(event.replica_id)
            if event.replica_id not in self._killed:  # why we killed it has been said
                logger.info("replica %s %s%s", event.replica_id, event.cause, event.stack and f"\n{event.stack}")
            self._killed.discard(event.replica_id)
            self.handle(ProcessExited(event.replica_id, event.cause))

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Publish):
            self.publisher.publish(command.snapshot)
        elif isinstance(command, SaveTarget):
            self._checkpoint.save(command.target)
        elif isinstance(command, StartReplica):
            spec = command.deployment
            self._engine.start(ReplicaProcess(command.replica_id, spec.id, spec.version, command.slot))
        elif isinstance(command, KillReplica):
            self._spawn(self._kill(command.replica_id))
        elif isinstance(command, InitializeReplica):
            self._spawn(self._constructors.construct(command))
        else:
            assert isinstance(command, DrainReplica)
            self._spawn(self._drain(command))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work_done)

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a command failed unexpectedly", exc_info=error)  # its deadline asks again

    def _client(self, replica_id: str, address: str) -> ReplicaClient:
        client = self._clients.get(replica_id)
        if client is None:
            client = self._clients[replica_id] = ReplicaClient(self._connect, address, self._key, self.metrics)
        return client

    def _forget(self, replica_id: str) -> None:
        client = self._clients.pop(replica_id, None)
        if client is not None:
            client.process_ended()

    async def _kill(self, replica_id: str) -> None:
        self._killed.add(replica_id)
        await self._constructors.before_kill(replica_id)
        self._engine.kill(replica_id)

    async def _drain(self, command: DrainReplica) -> None:
        try:
            await self._client(command.replica_id, command.address).ask(Drain())
        except (ReplicaGone, ReplicaRefused):
            pass  # it is gone already, or its deadline will kill it


def _found(process: ReplicaProcess) -> FoundProcess:
    return FoundProcess(
        process.replica_id, process.deployment, process.version, process.slot, process.pid, process.address
    )


def _new_suffix() -> str:
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(4))
