"""The replicas that have ended of late: what died here, and why, without reading logs.

The last ``OF_A_DEPLOYMENT`` of each deployment, by its name: they stay when it is deleted and deployed again. Of all
of them together ``OF_ALL`` at most, so that an instance that makes and deletes deployments for ever remembers no more
than one that does not; the deployments in which nothing has ended for longest are forgotten first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from salver.control.events import RememberEnd
from salver.control.leaving import Cause, Leaving
from salver.control.replica import Replica
from salver.records import DeploymentId
from salver.views import EndedReplica

OF_A_DEPLOYMENT = 10
OF_ALL = 1000

_TEXT_CHARACTERS = 500


class Endings:
    """What has ended, as far as it is remembered.

    Args:
        before: what the last controller remembered, oldest first.
    """

    def __init__(self, before: Iterable[EndedReplica] = ()) -> None:
        self._by_deployment: dict[DeploymentId, deque[EndedReplica]] = {}
        """The deployment in which something has ended last comes last."""
        self._count = 0
        self._taken_next: list[RememberEnd] = []
        for ended in before:
            self.add(ended)

    def note(self, replica: Replica, now: float, wall_clock_offset: float) -> None:
        """The process of a replica is gone."""
        ended = ended_replica(replica, now, wall_clock_offset)
        self.add(ended)
        self._taken_next.append(RememberEnd(ended))

    def take(self) -> list[RememberEnd]:
        """Those noted since they were last taken, once."""
        taken, self._taken_next = self._taken_next, []
        return taken

    def add(self, ended: EndedReplica) -> None:
        """Remember it, and forget what is too much with it."""
        deployment = ended.deployment
        of_it = self._by_deployment.pop(deployment, None) or deque[EndedReplica]()
        self._by_deployment[deployment] = of_it
        of_it.append(ended)
        self._count += 1
        if len(of_it) > OF_A_DEPLOYMENT:
            of_it.popleft()
            self._count -= 1
        if self._count > OF_ALL:
            self._forget_one()

    def of(self, deployment: DeploymentId) -> tuple[EndedReplica, ...]:
        """Those of one deployment, oldest first."""
        return tuple(self._by_deployment.get(deployment, ()))

    def all(self) -> tuple[EndedReplica, ...]:
        """Everything, in the order that ``Endings`` takes it in again."""
        return tuple(ended for of_it in self._by_deployment.values() for ended in of_it)

    def _forget_one(self) -> None:
        deployment, of_it = next(iter(self._by_deployment.items()))
        of_it.popleft()
        self._count -= 1
        if not of_it:
            del self._by_deployment[deployment]


def ended_replica(replica: Replica, now: float, wall_clock_offset: float) -> EndedReplica:
    """What is to be remembered of a replica whose process is gone."""
    leaving = replica.leaving or Leaving(Cause.EXITED, replica.exit)
    logging = replica.deployment.logging
    return EndedReplica(
        replica_id=replica.replica_id,
        deployment=replica.deployment_id,
        version=replica.version,
        pid=replica.pid,
        start_time_s=replica.created_at + wall_clock_offset,
        ended_at_s=now + wall_clock_offset,
        cause=leaving.cause.value,
        reason=leaving.reason[:_TEXT_CHARACTERS],
        exit=replica.exit[:_TEXT_CHARACTERS],
        exit_code=replica.exit_code,
        rank=replica.rank,
        gpus=tuple(index for index, _ in replica.gpus),
        logs_dir="" if logging is None else logging.logs_dir,
    )
