"""One application: its deployments, which of them HTTP requests enter by, and what it was when all was well.

The last good specification is the one that last ran as a whole and is not wanted any more. Should a deployment of
the wanted one fail, it goes on as it is in there; and it is what a rollback returns to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from salver.control.deployment import Deployment, Membership
from salver.control.events import Command
from salver.control.fleet import Fleet
from salver.control.notes import Notes
from salver.control.replica import State
from salver.control.scaling import Scaling
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec
from salver.wire.snapshot import ApplicationRoute


def conflicting_application(spec: ApplicationSpec, target: Iterable[ApplicationSpec]) -> str | None:
    """The name of another application that has the route prefix of ``spec``; None when it is free."""
    if spec.route_prefix is None:
        return None
    for other in target:
        if other.name != spec.name and other.route_prefix == spec.route_prefix:
            return other.name
    return None


class Application:
    """An application and its way to its target.

    Args:
        fleet: where its replicas live.
        jitter: for the back-off, a number from 0 to 1.
        notes: for operators.
        spec: what is wanted.
        good: what ran before; None for nothing.
        decided: numbers of replicas that were decided on before, by ``app#deployment``.
        proven: whether it has run as a whole, as it is wanted.
        capacity_percent: how much of every number is wanted; None is all.
        deployed_at_s: wall time of the deploy.
    """

    def __init__(
        self,
        fleet: Fleet,
        jitter: Callable[[], float],
        notes: Notes,
        spec: ApplicationSpec,
        *,
        deployed_at_s: float,
        good: ApplicationSpec | None = None,
        decided: Mapping[str, int] | None = None,
        proven: bool = False,
        capacity_percent: float | None = None,
    ) -> None:
        self._fleet = fleet
        self._jitter = jitter
        self._notes = notes
        self.spec = spec
        self.good = good
        self.capacity_percent = capacity_percent
        self.deployed_at_s = deployed_at_s
        self.deleting = False
        self.route: ApplicationRoute | None = None
        self.deployments: dict[str, Deployment] = {}
        self.proven = proven
        self._aim(spec, deployed_at_s, decided)

    @property
    def gone(self) -> bool:
        """Deleted, and its last process has ended."""
        return self.deleting and not self.deployments

    @property
    def settled(self) -> bool:
        """Everything that is wanted runs: an update is through."""
        return all(deployment.settled for deployment in self.target_deployments)

    @property
    def target_deployments(self) -> list[Deployment]:
        return [d for d in self.deployments.values() if d.membership is Membership.TARGET]

    @property
    def routed_deployments(self) -> list[Deployment]:
        """Those that handles and the ingress may call."""
        return [d for d in self.deployments.values() if d.membership is not Membership.REMOVED]

    def deploy(self, spec: ApplicationSpec, deployed_at_s: float) -> None:
        """This is wanted from now on; a deployment that is on its way out begins anew."""
        if self.proven and not self.deleting and spec != self.spec:
            self.good = self.spec
        if self.deleting:
            self.good = None
        self._aim(spec, deployed_at_s)

    def roll_back(self, deployed_at_s: float) -> None:
        """Return to the last good specification, if there is one."""
        to = self.good
        if to is not None and not self.deleting:
            self.good = self.spec if self.proven else None
            self._aim(to, deployed_at_s)

    def _aim(self, spec: ApplicationSpec, deployed_at_s: float, decided: Mapping[str, int] | None = None) -> None:
        """``decided`` is what the last controller left: for what is new here now, not for what is deployed later."""
        if spec != self.spec:
            self.proven = False
        self.spec = spec
        self.deployed_at_s = deployed_at_s
        self.deleting = False
        wanted = {deployment.id.name: deployment for deployment in spec.deployments}
        for name, deployment in self.deployments.items():
            if name not in wanted:
                deployment.retire()
        for name, deployment_spec in wanted.items():
            existing = self.deployments.get(name)
            if existing is None or existing.membership is Membership.REMOVED:
                self.deployments[name] = self._new_deployment(spec, deployment_spec, decided)
            else:
                existing.aim(spec, deployment_spec)
            self.deployments[name].fall_back_on(self.good)

    def _new_deployment(
        self, spec: ApplicationSpec, deployment: DeploymentSpec, decided: Mapping[str, int] | None
    ) -> Deployment:
        scaling = Scaling(deployment, (decided or {}).get(str(deployment.id)), self.capacity_percent)
        return Deployment(self._fleet, self._jitter, self._notes, spec, deployment, scaling)

    @property
    def replicas_decided(self) -> dict[str, int]:
        """What scaling has decided, by ``app#deployment``; to be given to the next controller."""
        return {
            str(deployment.id): deployment.scaling.decided
            for deployment in self.target_deployments
            if deployment.scaling.decided is not None
        }

    def set_capacity(self, percent: float | None) -> None:
        """How much of every number of replicas is wanted."""
        self.capacity_percent = percent
        for deployment in self.deployments.values():
            deployment.set_capacity(percent)

    def delete(self) -> None:
        """Nothing of it is wanted any more, and nothing reaches it from now on."""
        self.deleting = True
        self.route = None
        for deployment in self.deployments.values():
            deployment.remove()

    def another_wants(self, prefix: str | None, wanted: Counter[str | None]) -> bool:
        """Whether an application beside this one is to have the prefix; ``wanted`` counts those of all, this one's
        too. Asked of every application at every event: gathering the others' for each would be quadratic."""
        return prefix is not None and wanted[prefix] > (prefix == self.spec.route_prefix)

    def reconcile(self, now: float, at_s: float, prefixes_wanted: Counter[str | None]) -> list[Command]:
        """One step towards the target; ``at_s`` is the wall time, ``prefixes_wanted`` as for ``another_wants``."""
        commands: list[Command] = []
        for deployment in self.deployments.values():
            commands += deployment.reconcile(now, at_s)
        if self.settled:
            if not self.proven and not self.deleting:
                self.proven = True
                self._notes.of_application("deploy", self.spec.name, "runs as it was deployed")
            commands += self._end_retirement(now, at_s)
        if not self.deleting:
            self._switch_route(prefixes_wanted)
        self._forget_removed()
        return commands

    def _end_retirement(self, now: float, at_s: float) -> list[Command]:
        commands: list[Command] = []
        for deployment in self.deployments.values():
            if deployment.membership is Membership.RETIRING:
                deployment.remove()
                commands += deployment.reconcile(now, at_s)
        return commands

    def _switch_route(self, prefixes_wanted: Counter[str | None]) -> None:
        """Publish the target's route as soon as that loses no request.

        The old one is kept while its ingress serves and the new one does not, unless another application was
        deployed in the meantime with the prefix that this one is giving up.
        """
        spec = self.spec
        wanted = ApplicationRoute(
            spec.name, spec.route_prefix, spec.ingress, spec.timeout_status, access_log=_wants_access_log(spec)
        )
        current = self.route
        if (
            current is None
            or self.settled  # the new ingress may want no replicas, and the old one live on for other calls
            or self._runs(wanted.ingress)
            or not self._serves(current.ingress)
            or self.another_wants(current.route_prefix, prefixes_wanted)
        ):
            self.route = wanted

    def _serves(self, name: str) -> bool:
        deployment = self.deployments.get(name)
        return deployment is not None and bool(deployment.serving)

    def _runs(self, name: str) -> bool:
        deployment = self.deployments.get(name)
        return deployment is not None and any(r.state is State.RUNNING for r in deployment.serving)

    def _forget_removed(self) -> None:
        for name, deployment in list(self.deployments.items()):
            if deployment.membership is Membership.REMOVED and not self._fleet.of(DeploymentId(self.spec.name, name)):
                del self.deployments[name]


def _wants_access_log(spec: ApplicationSpec) -> bool:
    """What the logging of its ingress says: of a request, that is all that the proxy knows."""
    logging = next((each.logging for each in spec.deployments if each.id.name == spec.ingress), None)
    return logging is None or logging.enable_access_log
