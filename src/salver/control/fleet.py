"""Every replica that has, or may have, a process: identities, slots, resources, deadlines.

A replica is in the fleet until its process is gone, whatever became of its deployment. So an id, a slot of
the load board or a GPU is never given to two processes at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from salver.control.events import Command, FoundProcess
from salver.control.leaving import Cause, Leaving
from salver.control.placement import Unplaceable, place
from salver.control.replica import Replica, State
from salver.records import ApplicationSpec, Capacity, DeploymentId, DeploymentSpec

MAX_SUFFIX_DRAWS = 1000


class Fleet:
    """The replicas, in the order in which they came.

    Args:
        new_suffix: gives a fresh short suffix; drawn again when it is taken.
        capacity: what there is to be reserved.
    """

    def __init__(self, new_suffix: Callable[[], str], capacity: Capacity) -> None:
        self._new_suffix = new_suffix
        self._capacity = capacity
        self._by_id: dict[str, Replica] = {}
        self._by_deployment: dict[DeploymentId, dict[str, Replica]] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def get(self, replica_id: str) -> Replica | None:
        return self._by_id.get(replica_id)

    def of(self, deployment: DeploymentId) -> tuple[Replica, ...]:
        """The deployment's replicas, oldest first, also those on the way out."""
        return tuple(self._by_deployment.get(deployment, {}).values())

    def start(
        self, application: ApplicationSpec, deployment: DeploymentSpec, rank: int, now: float
    ) -> list[Command] | Unplaceable:
        """A new replica in the smallest free slot, or what there is too little of for it."""
        taken = ((replica.resources, replica.gpus) for replica in self)
        gpus = place(self._capacity, taken, deployment.resources)
        if isinstance(gpus, Unplaceable):
            return gpus
        replica_id, slot, resources = self._new_id(deployment.id), self._free_slot(), deployment.resources
        replica = Replica(replica_id, slot, application, deployment, resources, gpus, now)
        replica.rank = rank
        self._add(replica)
        return replica.begin(State.STARTING, now, "start")

    def would_fit(self, deployment: DeploymentSpec, without: Iterable[Replica]) -> bool:
        """Whether there would be room for a replica if these were gone."""
        gone = {replica.replica_id for replica in without}
        taken = ((replica.resources, replica.gpus) for replica in self if replica.replica_id not in gone)
        return not isinstance(place(self._capacity, taken, deployment.resources), Unplaceable)

    def adopt(
        self, process: FoundProcess, application: ApplicationSpec, deployment: DeploymentSpec, now: float
    ) -> list[Command]:
        """A replica that already has a process, in the slot that it has, and asked what it is."""
        replica = self._found(process, application, deployment, now)
        return replica.begin(State.RECOVERING, now, "found at a restart of the controller")

    def condemn(self, process: FoundProcess, now: float) -> list[Command]:
        """A process that belongs to nothing; its slot is taken until it is gone."""
        nothing = ApplicationSpec(name=process.deployment.app, route_prefix=None, ingress="", deployments=())
        spec = DeploymentSpec(id=process.deployment, version=process.version, definition=b"")
        replica = self._found(process, nothing, spec, now)
        commands = replica.begin(State.KILLING, now, "found, and belongs to nothing")
        replica.leave(Leaving(Cause.UNKNOWN, "belonged to nothing when the controller started"))
        return commands

    def remove(self, replica: Replica) -> None:
        """Its process is gone: the id and the slot are free."""
        del self._by_id[replica.replica_id]
        siblings = self._by_deployment[replica.deployment_id]
        del siblings[replica.replica_id]
        if not siblings:
            del self._by_deployment[replica.deployment_id]

    def next_deadline(self) -> float | None:
        return min((r.deadline for r in self if r.deadline is not None), default=None)

    def overdue(self, now: float) -> list[Replica]:
        """Replicas whose deadline has passed."""
        return [replica for replica in self if replica.deadline is not None and replica.deadline <= now]

    def _found(
        self, process: FoundProcess, application: ApplicationSpec, deployment: DeploymentSpec, now: float
    ) -> Replica:
        resources, gpus = process.resources, process.gpus
        replica = Replica(process.replica_id, process.slot, application, deployment, resources, gpus, now)
        replica.created_at = replica.ran_since = now - process.age_s
        replica.locate(process.pid, process.address)
        self._add(replica)
        return replica

    def _add(self, replica: Replica) -> None:
        self._by_id[replica.replica_id] = replica
        self._by_deployment.setdefault(replica.deployment_id, {})[replica.replica_id] = replica

    def _new_id(self, deployment: DeploymentId) -> str:
        for _ in range(MAX_SUFFIX_DRAWS):
            replica_id = f"{deployment}#{self._new_suffix()}"
            if replica_id not in self._by_id:
                return replica_id
        raise AssertionError(
            f"new_suffix gave only suffixes that {deployment} has, {MAX_SUFFIX_DRAWS} times: it does not vary"
        )

    def _free_slot(self) -> int:
        taken = {replica.slot for replica in self}
        return next(slot for slot in itertools.count() if slot not in taken)
