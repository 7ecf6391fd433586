"""The controller: feeds events to the pure core, carries out its commands, tells everyone what came of it."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from salver.control.application import conflicting_application
from salver.control.cluster import Cluster
from salver.control.endings import OF_ALL
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    Event,
    Note,
    ProcessExited,
    ProcessStarted,
    Publish,
    Recover,
    RememberEnd,
    RollBack,
    SaveTarget,
    ScaleDeployment,
    SetCapacity,
    StartFailed,
    Tick,
)
from salver.controller.checkpoint import Checkpoint
from salver.controller.demand import LoadWatch
from salver.controller.failpoints import Failpoint, reach
from salver.controller.history import History, happening_of
from salver.controller.instance_details import ControllerHealthMetrics
from salver.controller.line_file import LineFile
from salver.controller.metrics_store import MetricsStore
from salver.controller.operations import Operations
from salver.controller.policy_host import PolicyHost
from salver.controller.publisher import Publisher
from salver.controller.refusals import (
    NoSuchApplication,
    NoSuchDeployment,
    NothingToRollBackTo,
    PrefixTaken,
    ScalerDisabled,
)
from salver.controller.still_to_come import StillToCome
from salver.controller.vitals import Vitals
from salver.data.channel import Connect
from salver.data.load_board import LoadBoard
from salver.engine.interface import Engine, EngineEvent, Exited, NotStarted, Restarted, Started
from salver.records import ApplicationSpec, DeploymentId, Target
from salver.telemetry.metrics import registry
from salver.views import ApplicationView, DeploymentView, EndedReplica, Happening, ReplicaView

logger = logging.getLogger("salver.controller")

_SUFFIX_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look like another
_SAVE_AGAIN_AFTER_S = 5.0
_CLOCK_WAS_SET_S = 1.0
_SETTLED = frozenset({"RUNNING", "DEPLOY_FAILED"})


class Controller:
    """One instance's controller.

    Args:
        engine: where replicas run.
        checkpoint: where the target is kept.
        connect: how replicas are dialled.
        key: the instance's session key.
        epoch: which controller of this instance it is; grows.
        board: what replicas write about themselves; None where there is none.
        folder: the instance's; None keeps everything in memory.
        awaits_deploy: it was started in order to run something: requests wait for that.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        checkpoint: Checkpoint,
        connect: Connect,
        key: bytes,
        epoch: int,
        board: LoadBoard | None = None,
        folder: Path | None = None,
        awaits_deploy: bool = False,
    ) -> None:
        self._wall_clock_ahead = time.time() - time.monotonic()
        self._engine = engine
        self._checkpoint = checkpoint
        self._board = board
        self._cluster = Cluster(
            epoch=epoch,
            new_suffix=_new_suffix,
            jitter=random.random,
            wall_clock_offset=self._wall_clock_offset,
            capacity=engine.capacity(),
        )
        self.history = History(None if folder is None else folder / "events.jsonl")
        self._endings = LineFile(
            None if folder is None else folder / "ended.jsonl", EndedReplica, what="ended replicas", most=OF_ALL
        )
        self.metrics = MetricsStore(registry)
        self._vitals = Vitals()
        self._operations = Operations(
            engine=engine,
            connect=connect,
            key=key,
            board=board,
            metrics=self.metrics,
            tell=self.handle,
            woke=self._vitals.woke,
        )
        self._load = LoadWatch(board, self._operations.slots, self.handle, self._vitals)
        self._policies = PolicyHost(
            self.views, self._operations.recording_stats, self._operations.client, self.handle
        )
        self.publisher = Publisher(key, self.metrics, self._load)
        self.still_to_come = StillToCome(folder if awaits_deploy else None, self.publisher.await_applications)
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._unsaved: Target | None = None
        self._changed = asyncio.Event()
        self._ending = False
        self._early_events: list[EngineEvent] | None = []

    # --- life -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over: the saved target and the replicas that already run.

        Raises:
            StateUnreadable: there is no saved target to be had; nothing has happened, and it may be tried again.
        """
        target = self._checkpoint.load()
        self._engine.open(self._engine_event)
        processes = await self._engine.processes()
        found = self._operations.found(processes)
        self._operations.start()
        self.handle(Recover(target, found, tuple(self._endings.load())))
        self._policies.watch(target.applications)
        early, self._early_events = self._early_events or [], None
        for event in early:
            self._engine_event(event)

    def end_waits(self) -> None:
        """Answer everyone who waits for a change now: none will come."""
        self._ending = True
        self._changed.set()
        self.history.end_waits()

    async def stop(self) -> None:
        """Let go of everything; replicas stay. May be called twice."""
        for timer in (self._timer, self._saving):
            if timer is not None:
                timer.cancel()
        self._load.stop()
        await self._policies.stop()
        await self._operations.stop()
        self.publisher.close()
        await self._engine.close()

    # --- what users ask for -----------------------------------------------------------------------------

    def deploy(self, spec: ApplicationSpec) -> float:
        """Accept an application; its ``last_deployed_time_s`` until it is deployed anew. Raises PrefixTaken."""
        self._refuse_taken_prefix(spec)
        self.handle(DeployApplication(spec))
        if spec.config is None:  # of a config there may be more: who builds it knows
            self.still_to_come.are(())
        for deployment in spec.deployments:
            self._operations.deployment_changed(deployment)
        return self._cluster.target().deployed_at_s[spec.name]

    def _refuse_taken_prefix(self, spec: ApplicationSpec) -> None:
        holder = conflicting_application(spec, self._cluster.target().applications)
        if holder is not None:
            raise PrefixTaken(
                f'Prefix {spec.route_prefix} is being used by application "{holder}". '
                f'Failed to deploy application "{spec.name}".'
            )

    def delete(self, name: str) -> None:
        """Delete an application; unknown names are fine."""
        self.handle(DeleteApplication(name))

    def rollback(self, name: str) -> float:
        """Return to the version that ran before; as ``deploy``.

        Raises:
            NoSuchApplication, NothingToRollBackTo, PrefixTaken.
        """
        view = next((view for view in self._cluster.views(time.monotonic()) if view.name == name), None)
        if view is None or view.status == "DELETING":
            raise NoSuchApplication(name)
        good = next((spec for spec in self._cluster.target().last_good if spec.name == name), None)
        if good is None:
            raise NothingToRollBackTo(name)
        self._refuse_taken_prefix(good)
        self.handle(RollBack(name))
        return self._cluster.target().deployed_at_s[name]

    def scale(self, app: str, deployment: str, num_replicas: int) -> None:
        """Decide on a number of replicas. Raises NoSuchDeployment, ScalerDisabled."""
        deployment_id = DeploymentId(app, deployment)
        if self._cluster.deployment(deployment_id) is None:
            raise NoSuchDeployment(app, deployment)
        spec = next(spec for spec in self._cluster.target().applications if spec.name == app)
        if not spec.external_scaler:
            raise ScalerDisabled(app)
        self.handle(ScaleDeployment(deployment_id, num_replicas))

    def set_capacity(self, percent: float | None) -> None:
        """How much of every number of replicas is wanted, 0 to 100 percent; None is all."""
        self.handle(SetCapacity(percent))

    @property
    def target_capacity(self) -> float | None:
        """As ``set_capacity`` was told."""
        return self._cluster.target().capacity_percent

    def declared(self) -> dict[str, str | None]:
        """The applications that are wanted because of a config file, with their route prefixes."""
        wanted = self._cluster.target().applications
        return {spec.name: spec.route_prefix for spec in wanted if spec.config is not None}

    def deployed_by_code(self) -> dict[str, str | None]:
        """The others, with their route prefixes."""
        wanted = self._cluster.target().applications
        return {spec.name: spec.route_prefix for spec in wanted if spec.config is None}

    def views(self) -> tuple[ApplicationView, ...]:
        """Everything, for people; with what replicas write about themselves."""
        views = self._cluster.views(time.monotonic())
        if self._board is None:
            return views
        return tuple(
            msgspec.structs.replace(view, deployments=tuple(self._with_loads(each) for each in view.deployments))
            for view in views
        )

    def _with_loads(self, view: DeploymentView) -> DeploymentView:
        return msgspec.structs.replace(view, replicas=tuple(self._with_load(replica) for replica in view.replicas))

    def _with_load(self, view: ReplicaView) -> ReplicaView:
        slot = self._operations.slot(view.replica_id)
        if slot is None or self._board is None:
            return view
        return msgspec.structs.replace(view, ongoing=self._board.cells[slot], rss_bytes=self._board.rss[slot] or None)

    def health(self) -> ControllerHealthMetrics:
        """How the controller itself is."""
        return self._vitals.collect(
            subscribers=self.publisher.subscribers,
            reports=self._load.reports,
            commands=self._operations.under_way,
            unsaved=self.history.unsaved + self._endings.unsaved,
        )

    async def proxy_pids(self) -> list[int]:
        return await self._engine.proxy_pids()

    async def wait_until_settled(self, name: str, timeout_s: float) -> bool:
        """Wait until an application runs or has failed; whether it has in time."""
        return await self.wait_until(
            lambda: all(view.status in _SETTLED for view in self.views() if view.name == name), timeout_s
        )

    async def wait_until_gone(self, name: str, timeout_s: float) -> bool:
        """Wait until nothing is left of an application; whether it is so in time."""
        return await self.wait_until(lambda: all(view.name != name for view in self.views()), timeout_s)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
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

    def tell(self, happening: Happening) -> None:
        """Something that operators want to know of later; whoever waits for a change looks again."""
        self.history.add(happening)
        self._changed.set()

    def _wall_clock_offset(self) -> float:
        """Wall time minus monotonic time: the same each time, so that times are, until the clock was really set."""
        ahead = time.time() - time.monotonic()
        if abs(ahead - self._wall_clock_ahead) > _CLOCK_WAS_SET_S:
            self._wall_clock_ahead = ahead
        return self._wall_clock_ahead

    # --- events and commands ----------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Tell the core, do what it says, set the alarm for when it wants to be woken."""
        began = time.monotonic()
        for command in self._cluster.handle(event, began):
            self._carry_out(command)
        self._load.watch(self._cluster.autoscaled())
        self._changed.set()
        self._set_timer()
        self._vitals.decided(time.monotonic() - began)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._cluster.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        """A deadline has come."""
        self._load.refresh()
        self.handle(Tick())

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Publish):
            reach(Failpoint.BEFORE_PUBLISH)
            self.publisher.publish(command.snapshot)
            reach(Failpoint.AFTER_PUBLISH)
        elif isinstance(command, SaveTarget):
            reach(Failpoint.BEFORE_SAVE)
            self._save(command.target)
            reach(Failpoint.AFTER_SAVE)
            self._policies.watch(command.target.applications)
        elif isinstance(command, Note):
            self.history.add(command.happening)
        elif isinstance(command, RememberEnd):
            self._endings.save(command.ended, self._cluster.ended)
        else:
            self._operations.carry_out(command)

    def _save(self, target: Target) -> None:
        """Requests are served and replicas replaced with a full disk, too; it is tried again until it works."""
        self._unsaved = target
        failed_before = self._saving is not None
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        try:
            self._checkpoint.save(target)
        except OSError as error:
            if not failed_before:
                text = f"the target cannot be saved, and would be lost with this controller: {error}"
                logger.error(text)  # noqa: TRY400 - where we noticed helps nobody
                self.history.add(Happening("controller", text))
            self._saving = asyncio.get_running_loop().call_later(_SAVE_AGAIN_AFTER_S, self._save_again)
        else:
            self._unsaved = None
            if failed_before:
                self.history.add(Happening("controller", "the target is saved again"))

    def _save_again(self) -> None:
        if self._unsaved is not None:
            self._save(self._unsaved)

    def _engine_event(self, event: EngineEvent) -> None:
        if self._early_events is not None:  # a replica that dies while we take over: Recover comes first
            self._early_events.append(event)
        elif isinstance(event, Started):
            reach(Failpoint.AFTER_START)
            process = event.process
            self.handle(ProcessStarted(process.replica_id, process.pid, process.address))
        elif isinstance(event, NotStarted):
            logger.error("replica %s could not be started: %s", event.replica_id, event.reason)
            self.handle(StartFailed(event.replica_id, event.reason))
        elif isinstance(event, Restarted):
            self.tell(happening_of(event))
        else:
            self._exited(event)

    def _exited(self, event: Exited) -> None:
        if not self._operations.was_killed(event.replica_id):  # else why we killed it has been said
            logger.info("replica %s %s%s", event.replica_id, event.cause, event.stack and f"\n{event.stack}")
        self._operations.process_ended(event.replica_id)
        self.handle(ProcessExited(event.replica_id, event.cause, event.exit_code))


def _new_suffix() -> str:
    return "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(4))
