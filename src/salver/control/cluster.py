"""The whole of the control plane's state, and the one function that changes it.

``handle`` reads in the order things happen: the event is applied, deadlines that passed are applied, every
application takes its next step, and the routing table is published when that changed it. Nothing is
remembered about commands on their way: reconciling again from the state as it is heals whatever was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from salver.control.application import Application
from salver.control.deployment import Deployment
from salver.control.endings import Endings
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    Event,
    FoundProcess,
    HealthChecked,
    InitializeFailed,
    KillReplica,
    Load,
    LoadSampled,
    PolicyDecided,
    ProcessExited,
    ProcessStarted,
    Publish,
    Recover,
    ReplicaEvent,
    ReplicaInitialized,
    ReplicaReconfigured,
    ReplicaResponsive,
    ReplicaSilent,
    ReplicaWorn,
    RollBack,
    SaveTarget,
    ScaleDeployment,
    SetCapacity,
    StartFailed,
    Tick,
)
from salver.control.fleet import Fleet
from salver.control.invariants import check_invariants
from salver.control.notes import Notes, described
from salver.control.recovery import SavedSpecs
from salver.control.replica import Replica, Signal, State
from salver.control.routing_table import routing_table
from salver.control.status import application_view
from salver.records import ApplicationSpec, Capacity, DeploymentId, Target
from salver.views import ApplicationView, EndedReplica
from salver.wire.snapshot import Snapshot

_NOTHING = Target()


class Cluster:
    """Decides. Does no I/O, has no clock and no randomness of its own.

    Args:
        epoch: number of this controller, for its snapshots.
        new_suffix: gives a short suffix for a replica id, such as ``k3f9``; drawn again when it is taken.
        jitter: a number from 0 to 1, for the back-off.
        wall_clock_offset: gives wall time minus monotonic time, in seconds; asked each time, for the wall clock may
            be set, and the other one stands still while the machine sleeps.
        capacity: what replicas can reserve.
    """

    def __init__(
        self,
        *,
        epoch: int,
        new_suffix: Callable[[], str],
        jitter: Callable[[], float],
        wall_clock_offset: Callable[[], float] = lambda: 0.0,
        capacity: Capacity,
    ) -> None:
        self._jitter = jitter
        self._wall_clock_offset = wall_clock_offset
        self._fleet = Fleet(new_suffix, capacity)
        self._notes = Notes()
        self._endings = Endings()
        self._applications: dict[str, Application] = {}
        self._capacity_percent: float | None = None
        self._snapshot = Snapshot(epoch=epoch, version=0)
        self._saved = Target()
        self._recovered = False
        self._now = float("-inf")

    def handle(self, event: Event, now: float) -> list[Command]:
        """What to do about ``event``: SaveTarget first when the target changed, then what to remember, Publish last.

        ``now`` is monotonic, in seconds. The first event must be a Recover, and only the first. Raises
        InvalidTransition for an outcome that contradicts what the replica has done so far.
        """
        assert isinstance(event, Recover) != self._recovered, f"Recover comes first and once, not {event}"
        assert now >= self._now, f"time went back from {self._now} to {now}"
        self._now = now
        if self._is_no_news(event):
            return []
        for application in self._applications.values():
            for deployment in application.deployments.values():
                deployment.calm_down(now)
        commands = self._apply(event, now)
        for replica in self._fleet.overdue(now):
            commands += self._signal(replica, Signal.DEADLINE, "", now)
        commands += self._reconcile(now)
        commands += self._publish()
        return [*self._save(), *self._notes.take(), *self._endings.take(), *commands]

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
        offset = self._wall_clock_offset()
        return tuple(application_view(each, now, offset, self._endings.of) for each in self._applications.values())

    def ended(self) -> tuple[EndedReplica, ...]:
        """The replicas that have ended of late, as Recover takes them."""
        return self._endings.all()

    def snapshot(self) -> Snapshot:
        """The routing table as last published; version 0, and empty, before the first."""
        return self._snapshot

    def target(self) -> Target:
        """What is wanted: the content of SaveTarget."""
        wanted = [application for application in self._applications.values() if not application.deleting]
        return Target(
            applications=tuple(application.spec for application in wanted),
            last_good=tuple(application.good for application in wanted if application.good is not None),
            replicas={key: number for application in wanted for key, number in application.replicas_decided.items()},
            capacity_percent=self._capacity_percent,
            proven=tuple(application.spec.name for application in wanted if application.proven),
            deployed_at_s={application.spec.name: application.deployed_at_s for application in wanted},
        )

    def autoscaled(self) -> frozenset[str]:
        """The deployments whose load is to be sampled, as ``app#deployment``."""
        return frozenset(
            str(deployment.id)
            for application in self._applications.values()
            for deployment in application.target_deployments
            if deployment.scaling.automatic
        )

    def deployment(self, deployment: DeploymentId) -> Deployment | None:
        """A deployment that is wanted; None when there is none of that name."""
        application = self._applications.get(deployment.app)
        if application is None or application.deleting:
            return None
        return next((each for each in application.target_deployments if each.id == deployment), None)

    # --- the event ---

    def _is_no_news(self, event: Event) -> bool:
        """A healthy replica is healthy still: what every replica says every few seconds, and nothing follows from.

        Time is left to the next Tick. Looking at everything because of each would make an idle instance's work grow
        with the square of its replicas.
        """
        if not isinstance(event, HealthChecked) or event.error:
            return False
        replica = self._fleet.get(event.replica_id)
        return replica is None or not (replica.health_failures or replica.trouble)

    def _apply(self, event: Event, now: float) -> list[Command]:
        match event:
            case Recover():
                self._endings = Endings(event.ended)
                return self._recover(event.target, event.processes, now)
            case DeployApplication(spec=spec):
                self._deploy(spec, now)
            case DeleteApplication(name=name):
                self._delete(name)
            case RollBack(name=name):
                self._roll_back(name, now)
            case ScaleDeployment():
                self._scale(event, now)
            case SetCapacity(percent=percent):
                self._set_capacity(percent)
            case LoadSampled(loads=loads):
                self._load_sampled(loads, now)
            case PolicyDecided():
                self._policy_decided(event)
            case Tick():
                pass
            case _:
                return self._apply_to_replica(event, now)
        return []

    def _apply_to_replica(self, event: ReplicaEvent, now: float) -> list[Command]:
        replica = self._fleet.get(event.replica_id)
        if replica is None:  # a late answer about a replica whose process is gone
            # Given up before it appeared; or a repeated answer, and then a kill finds nothing and does no harm.
            return [KillReplica(event.replica_id)] if isinstance(event, ProcessStarted) else []
        match event:
            case ProcessStarted(pid=pid, address=address):
                replica.locate(pid, address)
                return self._signal(replica, Signal.PROCESS_STARTED, "", now)
            case StartFailed(reason=reason):
                return self._signal(replica, Signal.START_FAILED, reason, now)
            case ReplicaInitialized():
                return self._initialized(replica, event, now)
            case InitializeFailed(error=error, step=step):
                replica.initializing = step
                return self._signal(replica, Signal.INITIALIZE_FAILED, error, now)
            case ReplicaReconfigured(number=number, error=error):
                return self._reconfigured(replica, error, now) if number == replica.tellings else []
            case HealthChecked(error=error):
                return self._health_checked(replica, error, now)
            case ReplicaSilent():
                return self._silent(replica, event, now)
            case ReplicaResponsive():
                return self._signal(replica, Signal.RESPONSIVE, "", now)
            case ReplicaWorn(reason=reason):
                return self._worn(replica, reason)
            case ProcessExited(cause=cause, exit_code=exit_code):
                replica.exited(cause, exit_code)
                return self._signal(replica, Signal.EXITED, cause, now)

    # --- what users want ---

    def _recover(self, target: Target, processes: tuple[FoundProcess, ...], now: float) -> list[Command]:
        self._recovered = True
        self._saved = target
        self._capacity_percent = target.capacity_percent
        for spec in target.applications:
            self._applications[spec.name] = self._new_application(spec, now, target)
        saved = SavedSpecs(target)
        commands: list[Command] = []
        for process in processes:
            found = saved.of(process)
            commands += (
                self._fleet.condemn(process, now) if found is None else self._fleet.adopt(process, *found, now)
            )
        return commands

    def _deploy(self, spec: ApplicationSpec, now: float) -> None:
        existing = self._applications.get(spec.name)
        if existing is None:
            self._applications[spec.name] = self._new_application(spec, now)
            self._notes.of_application("deploy", spec.name, f"deployed, {described(spec)}")
        else:
            changed = spec != existing.spec or existing.deleting
            what = f"updated, {described(spec)}" if changed else "deployed again, unchanged"
            self._notes.of_application("deploy", spec.name, what)
            existing.deploy(spec, now + self._wall_clock_offset())

    def _delete(self, name: str) -> None:
        application = self._applications.get(name)
        if application is not None and not application.deleting:
            application.delete()
            self._notes.of_application("delete", name, "deleted")

    def _roll_back(self, name: str, now: float) -> None:
        application = self._applications.get(name)
        if application is None or application.deleting or application.good is None:
            return
        if application.another_wants(application.good.route_prefix, self._prefixes_wanted()):
            return  # whoever asked was told so; or somebody took it since then
        self._notes.of_application("rollback", name, f"rolled back, {described(application.good)}")
        application.roll_back(now + self._wall_clock_offset())

    def _scale(self, event: ScaleDeployment, now: float) -> None:
        deployment = self.deployment(event.deployment)
        if deployment is not None:
            change = deployment.scaling.set_from_outside(event.num_replicas, now + self._wall_clock_offset())
            deployment.scaled(change, automatically=False)

    def _set_capacity(self, percent: float | None) -> None:
        if percent != self._capacity_percent:
            self._capacity_percent = percent
            for application in self._applications.values():
                application.set_capacity(percent)

    def _new_application(self, spec: ApplicationSpec, now: float, saved: Target = _NOTHING) -> Application:
        """``saved`` tells of one that is new only to this controller."""
        return Application(
            self._fleet,
            self._jitter,
            self._notes,
            spec,
            deployed_at_s=saved.deployed_at_s.get(spec.name, now + self._wall_clock_offset()),
            good=next((each for each in saved.last_good if each.name == spec.name), None),
            decided=saved.replicas,
            proven=spec.name in saved.proven,
            capacity_percent=self._capacity_percent,
        )

    def _load_sampled(self, loads: dict[str, Load], now: float) -> None:
        for application in self._applications.values():
            for deployment in application.target_deployments:
                load = loads.get(str(deployment.id))
                if load is not None:
                    deployment.load_changed(load, now)

    def _policy_decided(self, event: PolicyDecided) -> None:
        for key in event.deployments:
            app, _, name = key.partition("#")
            deployment = self.deployment(DeploymentId(app, name))
            if deployment is not None:
                deployment.scaling.advise(event.replicas.get(key), event.error)

    def _save(self) -> list[Command]:
        target = self.target()
        if target == self._saved:
            return []
        self._saved = target
        return [SaveTarget(target)]

    # --- what happens to a replica ---

    def _initialized(self, replica: Replica, event: ReplicaInitialized, now: float) -> list[Command]:
        if (deployment := self._deployment_of(replica)) is not None:
            deployment.docs_path = event.docs_path
        if replica.state is State.RECOVERING:
            replica.rank = event.rank
        return self._signal(replica, Signal.INITIALIZED, "", now)

    def _reconfigured(self, replica: Replica, error: str, now: float) -> list[Command]:
        deployment = self._deployment_of(replica)
        if replica.state is State.UPDATING and deployment is not None:
            deployment.reconfigured(replica, error)
        return self._signal(replica, Signal.RECONFIGURED, error, now)

    def _health_checked(self, replica: Replica, error: str, now: float) -> list[Command]:
        deployment = self._deployment_of(replica)
        if replica.stopping or replica.state is State.HUNG or deployment is None:
            return []
        if not deployment.health_checked(replica, error):
            return []
        return self._signal(replica, Signal.UNHEALTHY, f"{replica.trouble}, {replica.health_failures} times", now)

    def _silent(self, replica: Replica, event: ReplicaSilent, now: float) -> list[Command]:
        before = replica.state
        commands = self._signal(replica, Signal.HUNG if event.hung else Signal.BLOCKED, event.reason, now)
        if replica.state is not before:
            replica.trouble = event.reason
            self._notes.of_deployment("health", replica.deployment_id, event.reason, replica.replica_id)
        return commands

    def _worn(self, replica: Replica, reason: str) -> list[Command]:
        if not replica.worn and not replica.stopping:
            replica.worn = reason
            self._notes.of_deployment("recycle", replica.deployment_id, reason, replica.replica_id)
        return []

    def _signal(self, replica: Replica, signal: Signal, detail: str, now: float) -> list[Command]:
        before = replica.state
        commands = replica.take(signal, now, detail)
        deployment = self._deployment_of(replica)
        if deployment is not None:
            deployment.observe(replica, before, signal, detail, now)
        if replica.state is State.GONE:
            self._fleet.remove(replica)
            self._endings.note(replica, now, self._wall_clock_offset())
        return commands

    def _deployment_of(self, replica: Replica) -> Deployment | None:
        application = self._applications.get(replica.deployment_id.app)
        return application.deployments.get(replica.deployment_id.name) if application else None

    # --- what follows from it ---

    def _reconcile(self, now: float) -> list[Command]:
        commands: list[Command] = []
        at_s, prefixes = now + self._wall_clock_offset(), self._prefixes_wanted()
        for name, application in list(self._applications.items()):
            commands += application.reconcile(now, at_s, prefixes)
            if application.gone:
                del self._applications[name]
        return commands

    def _prefixes_wanted(self) -> Counter[str | None]:
        """How many applications want each; None is no prefix. It takes an event to change them, not a step."""
        return Counter(each.spec.route_prefix for each in self._applications.values() if not each.deleting)

    def _publish(self) -> list[Command]:
        last = self._snapshot
        same = routing_table(self._applications.values(), last.epoch, last.version)
        # The first one is published even if it is empty: subscribers wait to hear from this controller.
        if same == last and last.version:
            return []
        self._snapshot = msgspec.structs.replace(same, version=last.version + 1)
        return [Publish(self._snapshot)]
