"""Carries out what the core decides about replicas, and watches those that run; all outcomes come back as events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from salver.control.events import (
    DrainReplica,
    Event,
    FoundProcess,
    InitializeReplica,
    KillReplica,
    ReconfigureReplica,
    ReplicaWorn,
    StartReplica,
)
from salver.controller.constructors import Constructors, innermost
from salver.controller.failpoints import Failpoint, reach
from salver.controller.health import HealthChecks
from salver.controller.liveness import Liveness
from salver.controller.metrics_store import MetricsStore
from salver.controller.reconfiguring import Reconfiguring
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.data.channel import Connect
from salver.data.load_board import LoadBoard
from salver.engine.interface import Engine, ReplicaProcess
from salver.records import DeploymentId, DeploymentSpec
from salver.wire.messages import Constructed, Drain, Report

logger = logging.getLogger("salver.controller")

ReplicaCommand = StartReplica | InitializeReplica | ReconfigureReplica | DrainReplica | KillReplica

_REACHED_WITHIN_S = 10.0


class _Known:
    """What the shell knows of a replica that the core has asked it about."""

    def __init__(self, slot: int, deployment: DeploymentId) -> None:
        self.slot = slot
        self.deployment = deployment
        self.client: ReplicaClient | None = None
        self.constructed: Constructed | None = None
        """What it said of itself when its constructor had returned."""

    @property
    def checks_health(self) -> bool:
        return self.constructed is not None and self.constructed.checks_health

    @property
    def records_stats(self) -> bool:
        return self.constructed is not None and self.constructed.records_stats


class Operations:
    """The hands of one controller.

    Args:
        engine: where replicas run.
        connect: how they are dialled.
        key: the instance's session key.
        board: what they write about themselves; None where there is none.
        metrics: where those that they push go.
        tell: receives the outcomes.
        woke: is told by how much the timer that looks at replicas is late.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        connect: Connect,
        key: bytes,
        board: LoadBoard | None,
        metrics: MetricsStore,
        tell: Callable[[Event], None],
        woke: Callable[[float, float], None],
    ) -> None:
        self._engine = engine
        self._connect = connect
        self._key = key
        self._metrics = metrics
        self._tell = tell
        self._known: dict[str, _Known] = {}
        self._killed: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._constructors = Constructors(engine, self._client, tell, self._constructed)
        self._reconfiguring = Reconfiguring(self._client, tell)
        self._health = HealthChecks(self.client, tell)
        self._liveness = None if board is None else Liveness(board, tell, woke=woke)

    def start(self) -> None:
        if self._liveness is not None:
            self._liveness.start()

    async def stop(self) -> None:
        """Let go of everything; replicas stay. May be called twice."""
        self._health.stop()
        if self._liveness is not None:
            self._liveness.stop()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        for known in self._known.values():
            if known.client is not None:
                known.client.close()

    # --- what is known ----------------------------------------------------------------------------------

    def client(self, replica_id: str) -> ReplicaClient | None:
        """The conversation with a replica; None before the first word."""
        known = self._known.get(replica_id)
        return None if known is None else known.client

    @property
    def under_way(self) -> int:
        """How many commands are being carried out."""
        return len(self._work)

    def slots(self, key: str) -> list[int]:
        """The places on the load board of a deployment's replicas."""
        return [known.slot for known in self._known.values() if str(known.deployment) == key]

    def slot(self, replica_id: str) -> int | None:
        known = self._known.get(replica_id)
        return None if known is None else known.slot

    def recording_stats(self, key: str) -> list[str]:
        """A deployment's replicas that have a ``record_autoscaling_stats``."""
        return [
            replica_id
            for replica_id, known in self._known.items()
            if str(known.deployment) == key and known.records_stats
        ]

    def was_killed(self, replica_id: str) -> bool:
        """Whether we have killed it: then why has been said."""
        return replica_id in self._killed

    def found(self, processes: Sequence[ReplicaProcess]) -> tuple[FoundProcess, ...]:
        """These run already; what the core is to be told of them."""
        for process in processes:
            self._known[process.replica_id] = _Known(process.slot, process.deployment)
        return tuple(map(_found, processes))

    def deployment_changed(self, deployment: DeploymentSpec) -> None:
        """How often its replicas are asked for their health may be different now."""
        for replica_id, known in self._known.items():
            if known.deployment == deployment.id and known.checks_health:
                self._health.watch(replica_id, deployment)

    def process_ended(self, replica_id: str) -> None:
        """There is nobody to talk to or to watch any more."""
        self._killed.discard(replica_id)
        self._health.forget(replica_id)
        if self._liveness is not None:
            self._liveness.forget(replica_id)
        known = self._known.pop(replica_id, None)
        if known is not None and known.client is not None:
            known.client.process_ended()

    # --- commands ---------------------------------------------------------------------------------------

    def carry_out(self, command: ReplicaCommand) -> None:
        """Begin with it."""
        if isinstance(command, StartReplica):
            self._start(command)
        elif isinstance(command, KillReplica):
            self._spawn(self._kill(command.replica_id))
        elif isinstance(command, InitializeReplica):
            self._spawn(self._initialize(command))
        elif isinstance(command, ReconfigureReplica):
            self._spawn(self._reconfiguring.reconfigure(command))
        else:
            self._spawn(self._drain(command))

    def _start(self, command: StartReplica) -> None:
        spec = command.deployment
        self._known[command.replica_id] = _Known(command.slot, spec.id)
        process = ReplicaProcess(
            command.replica_id,
            spec.id,
            spec.version,
            command.slot,
            resources=spec.resources,
            gpus=command.gpus,
            logging=spec.logging,
        )
        reach(Failpoint.BEFORE_START)
        self._engine.start(process)

    async def _initialize(self, command: InitializeReplica) -> None:
        known = self._known.get(command.replica_id)
        if known is None:
            return
        if self._liveness is not None:
            self._liveness.watch(command.replica_id, known.slot)
        reach(Failpoint.BEFORE_INITIALIZE)
        await self._constructors.construct(command)
        if known.checks_health and self._known.get(command.replica_id) is known:
            self._health.watch(command.replica_id, command.deployment)

    def _constructed(self, replica_id: str, constructed: Constructed) -> None:
        known = self._known.get(replica_id)
        if known is not None:
            known.constructed = constructed

    async def _kill(self, replica_id: str) -> None:
        asked_again = replica_id in self._killed
        self._killed.add(replica_id)
        await self._constructors.before_kill(replica_id)
        known = self._known.get(replica_id)
        if known is not None and known.constructed is not None and not asked_again:
            where = innermost(await self._engine.where(replica_id))  # afterwards nobody can tell
            logger.warning("replica %s is killed%s", replica_id, f"; it is at\n{where}" if where else "")
        reach(Failpoint.BEFORE_KILL)
        self._engine.kill(replica_id)

    async def _drain(self, command: DrainReplica) -> None:
        self._health.forget(command.replica_id)
        try:
            async with asyncio.timeout(_REACHED_WITHIN_S):
                await self._client(command.replica_id, command.address).ask(Drain())
            reach(Failpoint.AFTER_DRAIN)
        except (ReplicaGone, ReplicaRefused, TimeoutError):
            pass  # it is gone already, or its deadline will kill it

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work_done)

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a command failed unexpectedly", exc_info=error)  # its deadline asks again

    def _client(self, replica_id: str, address: str) -> ReplicaClient:
        known = self._known.get(replica_id)
        if known is None:
            raise ReplicaGone("its process has ended")
        if known.client is None:
            on_report = partial(self._reported, replica_id)
            known.client = ReplicaClient(self._connect, address, self._key, self._metrics, on_report)
        return known.client

    def _reported(self, replica_id: str, report: Report) -> None:
        self._tell(ReplicaWorn(replica_id, report.reason))


def _found(process: ReplicaProcess) -> FoundProcess:
    return FoundProcess(
        process.replica_id,
        process.deployment,
        process.version,
        process.slot,
        process.pid,
        process.address,
        process.gpus,
        process.resources,
        process.age_s,
    )
