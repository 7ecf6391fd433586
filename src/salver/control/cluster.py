"""The whole of the control plane's state, and the one function that changes it.

``handle`` reads in the order things happen: the event is applied, deadlines that passed are applied, every
application takes its next step, and the routing table is published when that changed it. Nothing is
remembered about commands on their way: reconciling again from the state as it is heals whatever was lost.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from salver.control.application import Application
from salver.control.deployment import Deployment
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    Event,
    FoundProcess,
    InitializeFailed,
    KillReplica,
    ProcessExited,
    ProcessStarted,
    Publish,
    Recover,
    ReplicaInitialized,
    SaveTarget,
    StartFailed,
)
from salver.control.fleet import Fleet
from salver.control.invariants import check_invariants
from salver.control.replica import Replica, Signal, State
from salver.control.routing_table import routing_table
from salver.control.status import application_view
from salver.records import ApplicationSpec, DeploymentSpec, Target
from salver.views import ApplicationView
from salver.wire.snapshot import Snapshot


class Cluster:
    """Decides. Does no I/O, has no clock and no randomness of its own.

    Args:
        epoch: number of this controller, for its snapshots.
        new_suffix: gives a short suffix for a replica id, such as ``k3f9``; drawn again when it is taken.
        jitter: a number from 0 to 1, for the back-off.
        wall_clock_offset: wall time minus monotonic time, seconds.
    """

    def __init__(
        self,
        *,
        epoch: int,
        new_suffix: Callable[[], str],
        jitter: Callable[[], float],
        wall_clock_offset: float = 0.0,
    ) -> None:
        self._jitter = jitter
        self._wall_clock_offset = wall_clock_offset
        self._fleet = Fleet(new_suffix)
        self._applications: dict[str, Application] = {}
        self._snapshot = Snapshot(epoch=epoch, version=0)
        self._recovered = False
        self._now = float("-inf")

    def handle(self, event: Event, now: float) -> list[Command]:
        """What to do about ``event``: SaveTarget first when the target changed, Publish last when routes did.

        ``now`` is monotonic, in seconds. The first event must be a Recover, and only the first. Raises
        InvalidTransition for an outcome that contradicts what the replica has done so far.
        """
        assert isinstance(event, Recover) != self._recovered, f"Recover comes first and once, not {event}"
        assert now >= self._now, f"time went back from {self._now} to {now}"
        self._now = now
        for application in self._applications.values():
            for deployment in application.deployments.values():
                deployment.calm_down(now)
        commands = self._apply(event, now)
        for replica in self._fleet.overdue(now):
            commands += self._signal(replica, Signal.DEADLINE, "", now)
        commands += self._reconcile(now)
        commands += self._publish()
        return commands

    def next_deadline(self) -> float | None:
        """When to send the next Tick if nothing else happens; None when nothing is pending."""
        deadlines = [self._fleet.next_deadline()]
        for application in self._applications.values():
            deadlines += [deployment.next_deadline() for deployment in application.deployments.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def validate(self) -> None:
        """Raise AssertionError, with the story of the replica, when an invariant is broken."""
        if self._recovered:
            check_invariants(self._applications, self._fleet, self._snapshot)

    def views(self, now: float) -> tuple[ApplicationView, ...]:
        """Every application for status, also those being deleted."""
        return tuple(application_view(application, now) for application in self._applications.values())

    def snapshot(self) -> Snapshot:
        """The routing table as last published; version 0, and empty, before the first."""
        return self._snapshot

    def target(self) -> Target:
        """What is wanted: the content of SaveTarget."""
        return Target(tuple(a.spec for a in self._applications.values() if not a.deleting))

    # --- the event ---

    def _apply(self, event: Event, now: float) -> list[Command]:
        match event:
            case Recover(target=target, processes=processes):
                return self._recover(target.applications, processes, now)
            case DeployApplication(spec=spec):
                return self._deploy(spec, now)
            case DeleteApplication(name=name):
                return self._delete(name)
            case ProcessStarted():
                return self._process_started(event, now)
            case StartFailed(replica_id=replica_id, reason=reason):
                return self._outcome(replica_id, Signal.START_FAILED, reason, now)
            case ReplicaInitialized(replica_id=replica_id, docs_path=docs_path):
                self._note_docs_path(replica_id, docs_path)
                return self._outcome(replica_id, Signal.INITIALIZED, "", now)
            case InitializeFailed(replica_id=replica_id, error=error):
                return self._outcome(replica_id, Signal.INITIALIZE_FAILED, error, now)
            case ProcessExited(replica_id=replica_id, cause=cause):
                return self._outcome(replica_id, Signal.EXITED, cause, now)
            case _:
                return []

    def _recover(
        self, target: tuple[ApplicationSpec, ...], processes: tuple[FoundProcess, ...], now: float
    ) -> list[Command]:
        self._recovered = True
        for spec in target:
            self._applications[spec.name] = self._new_application(spec, now)
        specs = {deployment.id: (spec, deployment) for spec in target for deployment in spec.deployments}
        commands: list[Command] = []
        for process in processes:
            found = specs.get(process.deployment)
            if found is None:
                commands += self._fleet.condemn(process, now)
            else:
                application, deployment = found
                commands += self._fleet.adopt(process, application, _as_found(deployment, process), now)
        return commands

    def _deploy(self, spec: ApplicationSpec, now: float) -> list[Command]:
        before = self.target()
        existing = self._applications.get(spec.name)
        if existing is None:
            self._applications[spec.name] = self._new_application(spec, now)
        else:
            existing.deploy(spec, now + self._wall_clock_offset)
        return self._save_if_changed(before)

    def _delete(self, name: str) -> list[Command]:
        before = self.target()
        application = self._applications.get(name)
        if application is not None:
            application.delete()
        return self._save_if_changed(before)

    def _new_application(self, spec: ApplicationSpec, now: float) -> Application:
        return Application(self._fleet, self._jitter, spec, now + self._wall_clock_offset)

    def _save_if_changed(self, before: Target) -> list[Command]:
        target = self.target()
        return [SaveTarget(target)] if target != before else []

    def _process_started(self, event: ProcessStarted, now: float) -> list[Command]:
        replica = self._fleet.get(event.replica_id)
        if replica is None:
            # Given up before it appeared; or a repeated answer, and then a kill finds nothing and does no harm.
            return [KillReplica(event.replica_id)]
        replica.locate(event.pid, event.address)
        return self._signal(replica, Signal.PROCESS_STARTED, "", now)

    def _outcome(self, replica_id: str, signal: Signal, detail: str, now: float) -> list[Command]:
        replica = self._fleet.get(replica_id)
        # Unknown: a late answer about a replica whose process is gone.
        return [] if replica is None else self._signal(replica, signal, detail, now)

    def _note_docs_path(self, replica_id: str, docs_path: str) -> None:
        replica = self._fleet.get(replica_id)
        deployment = None if replica is None else self._deployment_of(replica)
        if deployment is not None:
            deployment.docs_path = docs_path

    def _signal(self, replica: Replica, signal: Signal, detail: str, now: float) -> list[Command]:
        before = replica.state
        commands = replica.take(signal, now, detail)
        deployment = self._deployment_of(replica)
        if deployment is not None:
            deployment.observe(replica, before, signal, detail, now)
        if replica.state is State.GONE:
            self._fleet.remove(replica)
        return commands

    def _deployment_of(self, replica: Replica) -> Deployment | None:
        application = self._applications.get(replica.deployment_id.app)
        return application.deployments.get(replica.deployment_id.name) if application else None

    # --- what follows from it ---

    def _reconcile(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for name, application in list(self._applications.items()):
            commands += application.reconcile(now, self._prefixes_wanted_by_others(name))
            if application.gone:
                del self._applications[name]
        return commands

    def _prefixes_wanted_by_others(self, name: str) -> frozenset[str]:
        return frozenset(
            spec.route_prefix
            for spec in self.target().applications
            if spec.name != name and spec.route_prefix is not None
        )

    def _publish(self) -> list[Command]:
        last = self._snapshot
        same = routing_table(self._applications.values(), last.epoch, last.version)
        # The first one is published even if it is empty: subscribers wait to hear from this controller.
        if same == last and last.version:
            return []
        self._snapshot = msgspec.structs.replace(same, version=last.version + 1)
        return [Publish(self._snapshot)]


def _as_found(deployment: DeploymentSpec, process: FoundProcess) -> DeploymentSpec:
    """The spec that a found process was started with, as far as the saved target can tell.

    An old version's code is not saved. Without a definition its replica serves on if it is constructed, and
    fails to initialize if it is not, which is what should become of it.
    """
    if process.version == deployment.version:
        return deployment
    return msgspec.structs.replace(deployment, version=process.version, definition=b"")
