"""One deployment: what is wanted of it, what has failed, and the step towards it.

Level-triggered: ``reconcile`` looks at the replicas that there are, not at what happened, and may be called
at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from salver.control.backoff import Backoff
from salver.control.events import Command, Load
from salver.control.failure import Failure, cause_of, failure_of, in_words, summary_of, what_follows
from salver.control.fleet import Fleet
from salver.control.leaving import Leaving, makes_way, why_stopped
from salver.control.notes import Notes
from salver.control.placement import Unplaceable
from salver.control.progress import Progress
from salver.control.ranks import assign_ranks, free_rank
from salver.control.replica import CONSTRUCTED, LASTING, Replica, Signal, State, settings_of
from salver.control.rollout import Plan, plan
from salver.control.scaling import Change, Scaling
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec

HEALTH_FAILURES = 3
"""So many failed health checks in a row, and the replica is replaced."""


class Membership(Enum):
    """Whether the application still has this deployment."""

    TARGET = "in the application's target"
    RETIRING = "dropped by an update that is not through; serves on until it is"
    REMOVED = "only waits for its processes to end"


class Deployment:
    """A deployment and its way to its target.

    Args:
        fleet: where its replicas live.
        jitter: for the back-off, a number from 0 to 1.
        notes: for operators.
        application: the application as deployed.
        spec: what is wanted.
        scaling: how many replicas of it.
    """

    def __init__(
        self,
        fleet: Fleet,
        jitter: Callable[[], float],
        notes: Notes,
        application: ApplicationSpec,
        spec: DeploymentSpec,
        scaling: Scaling,
    ) -> None:
        self._fleet = fleet
        self._notes = notes
        self._application = application
        self._good: tuple[ApplicationSpec, DeploymentSpec] | None = None
        self.spec = spec
        self.scaling = scaling
        self.membership = Membership.TARGET
        self.progress = Progress()
        self.backoff = Backoff(jitter)
        self.last_failure: Failure | None = None
        self.waits_for = ""
        """What there is too little of on this machine for the replicas that are missing; empty when nothing."""
        self.docs_path = ""
        """Where its replicas say that they serve documentation of their own."""
        self._constructor_failures = 0
        self._good_failures = 0
        """Of constructors of what ran before, since something of it ran last."""
        self._version_ran = False
        self._refused_config = False

    # --- what there is ---

    @property
    def id(self) -> DeploymentId:
        return self.spec.id

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All, oldest first, also those on the way out."""
        return self._fleet.of(self.id)

    @property
    def serving(self) -> tuple[Replica, ...]:
        """Those that may take requests, of any version."""
        return tuple(replica for replica in self.replicas if replica.serving)

    @property
    def routed(self) -> tuple[Replica, ...]:
        """Those in the routing table: who is in trouble only when nobody else is there."""
        serving = self.serving
        return tuple(replica for replica in serving if not replica.troubled) or serving

    @property
    def running(self) -> tuple[Replica, ...]:
        """Those that are what is wanted: constructed, of the target's version, and with its settings."""
        return tuple(
            replica
            for replica in self.replicas
            if replica.state in LASTING
            and replica.version == self.spec.version
            and replica.told == settings_of(self.spec, replica.rank)
        )

    @property
    def wanted(self) -> int:
        """How many replicas there should be, of whatever is run."""
        if self.membership is Membership.REMOVED:
            return 0
        return self.scaling.wanted_of(self._target[1])

    @property
    def settled(self) -> bool:
        """Everything that is wanted runs; more may still be on its way out."""
        return len(self.running) >= (0 if self.membership is Membership.REMOVED else self.scaling.wanted)

    @property
    def version_ran(self) -> bool:
        """A replica of the target's version once took requests, so the version as such is not broken."""
        return self._version_ran

    @property
    def failed(self) -> bool:
        """What the user wants is given up until the next deploy.

        While a replica of the version recovers that is not decided: it may have run before the controller restarted.
        """
        if self._refused_config:
            return True
        return (
            self._constructor_failures >= self.spec.max_constructor_failures
            and not self._version_ran
            and not any(replica.version == self.spec.version for replica in self.serving)
        )

    @property
    def _target(self) -> tuple[ApplicationSpec, DeploymentSpec]:
        """What is run: what the user wants, or, when that has failed, what ran before."""
        good = self._good
        if self.failed and good is not None and self._good_failures < good[1].max_constructor_failures:
            return good
        return self._application, self.spec

    # --- what is wanted ---

    def aim(self, application: ApplicationSpec, spec: DeploymentSpec) -> None:
        """A deploy: this is wanted from now on, and what failed before is tried again."""
        before = self.wanted
        failed = self.failed or (self.backoff.failures > 0 and not self.settled)
        change = self.scaling.aim(spec)
        self._set_goal(spec, before, failed=failed)
        self._note_scaled(change)
        if spec.version != self.spec.version:
            self._version_ran = False
        self.membership = Membership.TARGET
        self._application = application
        self.spec = spec
        self._forgive()
        self._hand_on(application, spec)

    def fall_back_on(self, application: ApplicationSpec | None) -> None:
        """What ran before; it is kept running should the target fail. None for nothing."""
        spec = None
        if application is not None:
            spec = next((each for each in application.deployments if each.id == self.id), None)
        self._good = (application, spec) if application is not None and spec is not None else None

    def retire(self) -> None:
        """The application's update dropped it."""
        if self.membership is Membership.TARGET:
            self.membership = Membership.RETIRING

    def remove(self) -> None:
        """Nothing of it is wanted any more."""
        self.membership = Membership.REMOVED

    def _set_goal(self, spec: DeploymentSpec, before: int, *, failed: bool) -> None:
        same = spec.version == self.spec.version and settings_of(spec, 0) == settings_of(self.spec, 0)
        if not same or failed:
            self.progress.update()
        elif self.scaling.wanted != before:
            self.progress.scale(before, self.scaling.wanted, automatic=False)

    def _hand_on(self, application: ApplicationSpec, spec: DeploymentSpec) -> None:
        for replica in self.replicas:
            if replica.version == spec.version and not replica.stopping:
                replica.application = application
                replica.deployment = spec

    def set_capacity(self, percent: float | None) -> None:
        """How much of every number of replicas is wanted; None is all."""
        change = self.scaling.set_capacity(percent)
        if self.membership is not Membership.REMOVED:
            self.scaled(change, automatically=False)

    def scaled(self, change: Change | None, *, automatically: bool) -> None:
        """A number of replicas was decided on."""
        if change is not None:
            self.progress.scale(change.before, change.after, automatic=automatically)
            self._note_scaled(change)

    def _note_scaled(self, change: Change | None) -> None:
        if change is not None:
            text = f"from {change.before} to {change.after} replicas: {change.reason}"
            self._notes.of_deployment("scale", self.id, text)

    # --- what happens ---

    def observe(self, replica: Replica, before: State, signal: Signal, detail: str, now: float) -> None:
        """``signal`` took a replica of it out of ``before``: count that when it is a failure."""
        failure = failure_of(replica, before, signal, detail)
        if failure is None:
            return
        gave_up, looped = self.failed, self.backoff.looping
        self._count(replica, failure, now)
        summary = summary_of(failure, without=replica)
        replica.leave(Leaving(cause_of(before, signal), summary))
        text = summary + what_follows(failure, self.backoff.not_before - now)
        self._notes.of_deployment("replica", self.id, text, replica.replica_id)
        if self.backoff.looping and not looped:
            self._note_crash_loop(failure)
        if self.failed and not gave_up:
            self._note_failed()

    def _count(self, replica: Replica, failure: Failure, now: float) -> None:
        if replica.version not in (self.spec.version, self._target[1].version):
            return
        if self._target[1] is not self.spec:
            self._good_failures += failure.in_constructor
        elif replica.version == self.spec.version:
            self.last_failure = failure
            self._constructor_failures += failure.in_constructor
        # A recovering replica counts as one that ran: the controller's restart is not its version's fault.
        worked_before = self._version_ran or not failure.in_constructor
        self.backoff.fail(now, worked_before=worked_before, ran_s=replica.ran_s(now))

    def _note_crash_loop(self, failure: Failure) -> None:
        often = f"{self.backoff.failures} failures in {in_words(self.backoff.lasted_s)}"
        text = f"crash loop: {often}, from now on with pauses of up to 30 s; the last: {summary_of(failure)}"
        self._notes.of_deployment("replica", self.id, text)

    def _note_failed(self) -> None:
        what = " What ran before goes on." if self._good is not None else ""
        summary = summary_of(self.last_failure) if self.last_failure else ""
        self._notes.of_deployment("deploy", self.id, f"failed to deploy: {summary}.{what}")

    def reconfigured(self, replica: Replica, error: str) -> None:
        """A replica has its new settings, or refused them with the user's traceback."""
        if not error:
            return
        wanted = settings_of(self.spec, replica.rank)
        refused_what_is_wanted = replica.version == self.spec.version and replica.told == wanted
        replica.told = None
        if not refused_what_is_wanted or self._refused_config:
            return
        self._refused_config = True
        self.last_failure = Failure(
            in_constructor=False,
            trigger="CONFIG_UPDATE_STARTED",
            message=f"reconfigure of {self.id.name} failed: {error.strip().rpartition(chr(10))[2]}\n{error}",
        )
        self._note_failed()

    def health_checked(self, replica: Replica, error: str) -> bool:
        """A health check came to an end; whether the replica is to be replaced."""
        if not error:
            if replica.health_failures:
                self._notes.of_deployment("health", self.id, "passes its health check again", replica.replica_id)
            replica.health_failures = 0
            replica.trouble = ""
            return False
        replica.health_failures += 1
        replica.trouble = f"failed its health check: {error.strip().rpartition(chr(10))[2]}"
        self._notes.of_deployment("health", self.id, replica.trouble, replica.replica_id)
        return replica.health_failures >= HEALTH_FAILURES

    def load_changed(self, load: Load, now: float) -> None:
        """How busy it is; what follows from it comes with ``reconcile``."""
        self.scaling.observe(load, now)

    def calm_down(self, now: float) -> None:
        """Forget failures that enough good running has followed."""
        calm_at = self._calm_at()
        if calm_at is not None and calm_at <= now:
            if self.backoff.looping:
                self._notes.of_deployment("replica", self.id, "the crash loop is over: it runs well again")
            self.backoff.reset()
            self.last_failure = None

    # --- the step towards it ---

    def reconcile(self, now: float, at_s: float) -> list[Command]:
        """One step towards the target: everything that can be done now. ``at_s`` is the wall time."""
        if self.membership is Membership.TARGET:
            self.scaled(self.scaling.decide(now, at_s), automatically=True)
        commands: list[Command] = []
        step = self._plan()
        for replica in step.stop:
            commands += replica.stop(now, self._why_stopped(replica))
        commands += self._start_missing(step, now)
        commands += self._reconfigure(now)
        self._note_progress()
        return commands

    def _start_missing(self, step: Plan, now: float) -> list[Command]:
        self.waits_for = ""
        if now < self.backoff.not_before:
            return []
        commands: list[Command] = []
        for _ in range(step.missing):
            started = self._start_one(now)
            if isinstance(started, Unplaceable):
                self.waits_for = started.reason
                if not commands:
                    commands += self._make_room(step, now)
                break
            commands += started
        return commands

    def _start_one(self, now: float) -> list[Command] | Unplaceable:
        application, spec = self._target
        most = spec.max_replicas_per_node
        if most is not None and sum(not replica.stopping for replica in self.replicas) >= most:
            return Unplaceable(f"max_replicas_per_node={most}, and there is one machine")
        return self._fleet.start(application, spec, free_rank(self._members()), now)

    def _make_room(self, step: Plan, now: float) -> list[Command]:
        """There is none for both versions: stop old ones first, unless some are stopping already, or it is no use."""
        helps = self._fleet.would_fit(self._target[1], without=self.replicas)
        if not helps or any(replica.stopping for replica in self.replicas):
            return []
        commands: list[Command] = []
        for replica in step.in_the_way:
            commands += replica.stop(now, makes_way(self._target[1].version, first=True))
        return commands

    def _reconfigure(self, now: float) -> list[Command]:
        """Tell those that are constructed what they do not know yet, and did not refuse with nothing to return to."""
        spec = self._target[1]
        if self._refused_config and spec is self.spec:
            return []
        assign_ranks(self._members(), self.wanted)
        commands: list[Command] = []
        for replica in self.replicas:
            ready = replica.state is State.RUNNING and replica.version == spec.version
            if ready and replica.told != settings_of(spec, replica.rank):
                replica.application, replica.deployment = self._target
                commands += replica.take(Signal.RECONFIGURE, now)
        return commands

    def _members(self) -> list[Replica]:
        """Those that count for what is run, and share its ranks."""
        version = self._target[1].version
        return [r for r in self.replicas if r.version == version and not r.stopping and not r.worn]

    def next_deadline(self) -> float | None:
        """When it wants to be reconciled although nothing happened; its replicas' deadlines are not in it."""
        waits_for_backoff = self.backoff.not_before if self._plan().missing and not self.waits_for else None
        scales = self.scaling.next_deadline() if self.membership is Membership.TARGET else None
        deadlines = (waits_for_backoff, self._calm_at(), scales)
        return min((at for at in deadlines if at is not None), default=None)

    def _plan(self) -> Plan:
        spec = self._target[1]
        return plan(spec, self.wanted, self.replicas, failed=self.failed and spec is self.spec)

    def _why_stopped(self, replica: Replica) -> Leaving:
        removed, target = self.membership is Membership.REMOVED, self._target[1].version
        failed = self.failed and replica.version == self.spec.version
        return why_stopped(removed=removed, failed=failed, version=replica.version, target=target, worn=replica.worn)

    def _note_progress(self) -> None:
        if any(r.state in CONSTRUCTED and r.version == self.spec.version for r in self.replicas):
            self._version_ran = True
        if any(r.state in CONSTRUCTED and r.version == self._target[1].version for r in self.replicas):
            self._good_failures = 0
        stopping = any(replica.stopping for replica in self.replicas)
        self.progress.look(settled=self.settled, stopping=stopping)

    def _calm_at(self) -> float | None:
        """When the failures so far stop counting."""
        since = [replica.ran_since for replica in self.running if replica.ran_since is not None]
        return self.backoff.calm_at(since, complete=self.settled)

    def _forgive(self) -> None:
        self.backoff.reset()
        self.last_failure = None
        self._constructor_failures = 0
        self._refused_config = False
        self._good_failures = 0
