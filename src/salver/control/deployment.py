"""One deployment: what is wanted of it, what has failed, and the step towards it.

Level-triggered: ``reconcile`` looks at the replicas that there are, not at what happened, and may be called
at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from salver.control.backoff import CALM_S, Backoff
from salver.control.events import Command
from salver.control.failure import Failure, failure_of
from salver.control.fleet import Fleet
from salver.control.replica import Replica, Signal, State
from salver.control.rollout import Plan, plan
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec


class Membership(Enum):
    """Whether the application still has this deployment."""

    TARGET = "in the application's target"
    RETIRING = "dropped by an update that is not through; serves on until it is"
    REMOVED = "only waits for its processes to end"


class Goal(Enum):
    """What the last deploy was about; the value is the deployment's status on the way there."""

    UPDATE = "UPDATING"
    UPSCALE = "UPSCALING"
    DOWNSCALE = "DOWNSCALING"


class Deployment:
    """A deployment and its way to its target.

    Args:
        fleet: where its replicas live.
        jitter: for the back-off, a number from 0 to 1.
        application: the application as deployed.
        spec: what is wanted.
    """

    def __init__(
        self, fleet: Fleet, jitter: Callable[[], float], application: ApplicationSpec, spec: DeploymentSpec
    ) -> None:
        self._fleet = fleet
        self._application = application
        self.spec = spec
        self.membership = Membership.TARGET
        self.goal = Goal.UPDATE
        self.reached = False
        self.backoff = Backoff(jitter)
        self.last_failure: Failure | None = None
        self.docs_path = ""
        """Where its replicas say that they serve documentation of their own."""
        self._constructor_failures = 0
        self._version_ran = False

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
        """Those in the routing table, of any version."""
        return tuple(replica for replica in self.replicas if replica.serving)

    @property
    def running(self) -> tuple[Replica, ...]:
        """Those that are what is wanted: constructed, and of the target's version."""
        return tuple(
            replica
            for replica in self.replicas
            if replica.state is State.RUNNING and replica.version == self.spec.version
        )

    @property
    def settled(self) -> bool:
        """Everything that is wanted runs; more may still be on its way out."""
        return len(self.running) >= self.spec.num_replicas

    @property
    def version_ran(self) -> bool:
        """A replica of the target's version once took requests, so the version as such is not broken."""
        return self._version_ran

    @property
    def failed(self) -> bool:
        """The target's version is given up until the next deploy.

        While a replica of it recovers that is not decided: it may have run before the controller restarted.
        """
        return (
            self._constructor_failures >= self.spec.max_constructor_failures
            and not self._version_ran
            and not any(replica.version == self.spec.version for replica in self.serving)
        )

    # --- what is wanted ---

    def aim(self, application: ApplicationSpec, spec: DeploymentSpec) -> None:
        """A deploy: this is wanted from now on, and what failed before is tried again."""
        self._set_goal(spec)
        if spec.version != self.spec.version:
            self._version_ran = False
        self.membership = Membership.TARGET
        self._application = application
        self.spec = spec
        self._forgive()
        for replica in self.replicas:
            if replica.version == spec.version and not replica.stopping:
                replica.application = application
                replica.deployment = spec

    def retire(self) -> None:
        """The application's update dropped it."""
        if self.membership is Membership.TARGET:
            self.membership = Membership.RETIRING

    def remove(self) -> None:
        """Nothing of it is wanted any more."""
        self.membership = Membership.REMOVED
        self.spec = msgspec.structs.replace(self.spec, num_replicas=0)

    def _set_goal(self, spec: DeploymentSpec) -> None:
        if spec.version != self.spec.version or self.failed or self.backoff.failures:
            self.goal = Goal.UPDATE
        elif spec.num_replicas == self.spec.num_replicas or (not self.reached and self.goal is Goal.UPDATE):
            return
        else:
            self.goal = Goal.UPSCALE if spec.num_replicas > self.spec.num_replicas else Goal.DOWNSCALE
        self.reached = False

    # --- what happens ---

    def observe(self, replica: Replica, before: State, signal: Signal, detail: str, now: float) -> None:
        """``signal`` took a replica of it out of ``before``: count that when it is a failure."""
        failure = failure_of(replica, before, signal, detail)
        if failure is None or replica.version != self.spec.version:
            return
        self.last_failure = failure
        self._constructor_failures += failure.in_constructor
        # A recovering replica counts as one that ran: the controller's restart is not its version's fault.
        self.backoff.fail(now, worked_before=self._version_ran or not failure.in_constructor)

    def calm_down(self, now: float) -> None:
        """Forget failures that enough good running has followed."""
        calm_at = self._calm_at()
        if calm_at is not None and calm_at <= now:
            self.backoff.reset()
            self.last_failure = None

    def reconcile(self, now: float) -> list[Command]:
        """One step towards the target: everything that can be done now."""
        commands: list[Command] = []
        step = self._plan()
        for replica in step.stop:
            commands += replica.stop(now, self._reason_to_stop(replica))
        if now >= self.backoff.not_before:
            for _ in range(step.missing):
                commands += self._fleet.start(self._application, self.spec, now)
        self._note_progress()
        return commands

    def next_deadline(self) -> float | None:
        """When it wants to be reconciled although nothing happened; its replicas' deadlines are not in it."""
        waits_for_backoff = self.backoff.not_before if self._plan().missing else None
        return min((at for at in (waits_for_backoff, self._calm_at()) if at is not None), default=None)

    def _plan(self) -> Plan:
        return plan(self.spec, self.replicas, failed=self.failed)

    def _reason_to_stop(self, replica: Replica) -> str:
        if self.membership is Membership.REMOVED:
            return "its deployment is removed"
        if replica.version != self.spec.version:
            return f"version {self.spec.version} replaces it"
        return "its version failed to deploy" if self.failed else "scaled down"

    def _note_progress(self) -> None:
        if self.running:
            self._version_ran = True
        stopping = any(replica.stopping for replica in self.replicas)
        if self.settled and not (self.goal is Goal.DOWNSCALE and stopping):
            self.reached = True

    def _calm_at(self) -> float | None:
        """When the failures so far stop counting.

        Either a replica that began to run after the last of them, or, when nothing is missing, all of them,
        has to run for ``CALM_S``. Silence proves nothing: slow constructors and long waits are silent, too.
        """
        if not self.backoff.failures:
            return None
        last = self.backoff.last_failure_at
        proven = [replica.since for replica in self.running if replica.since >= last]
        if not proven and self.running and self.settled:
            proven = [last]
        return min(proven) + CALM_S if proven else None

    def _forgive(self) -> None:
        self.backoff.reset()
        self.last_failure = None
        self._constructor_failures = 0
