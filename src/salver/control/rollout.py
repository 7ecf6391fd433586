"""Which replicas to stop and how many to start: the policy of scaling and of rolling updates.

A pure function of what is wanted and what there is, asked again after every event. It remembers no steps, so
an update that is itself updated, scaled or interrupted by a restart of the controller needs no case of its
own.

An update surges: all replicas of the new version start at once, and each that runs relieves one of the old.
The old ones are never more than what the new ones leave to be done, and draining one never leaves fewer than
``num_replicas`` to serve. Rejected: stopping first, in steps of 20 % (the reference), which loses capacity,
and a limit on the surge, which matters for memory but makes a two-step wait out of every update.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from salver.control.replica import Replica, State
from salver.records import DeploymentSpec

_EASE_OF_STOPPING = (State.STARTING, State.INITIALIZING, State.RECOVERING, State.RUNNING)


class Plan(Struct, frozen=True):
    """What to do now; ``missing`` replicas start as soon as the back-off allows."""

    stop: tuple[Replica, ...]
    missing: int


def plan(target: DeploymentSpec, replicas: Sequence[Replica], *, failed: bool) -> Plan:
    """Decide for one deployment.

    Args:
        target: what is wanted.
        replicas: all that there are, oldest first.
        failed: the target's version is given up: what serves goes on, nothing of it starts.
    """
    live = [replica for replica in replicas if not replica.stopping]
    new = [replica for replica in live if replica.version == target.version]
    old = [replica for replica in live if replica.version != target.version]

    kept_new = _keep(new, target.num_replicas)
    if failed:
        kept_new = [replica for replica in kept_new if replica.serving]
    relieved = sum(replica.state is State.RUNNING for replica in kept_new)
    kept_old = _keep((replica for replica in old if replica.serving), target.num_replicas - relieved)

    kept = {replica.replica_id for replica in (*kept_new, *kept_old)}
    return Plan(
        stop=tuple(replica for replica in live if replica.replica_id not in kept),
        missing=0 if failed else target.num_replicas - len(kept_new),
    )


def _keep(replicas: Iterable[Replica], number: int) -> list[Replica]:
    """The ``number`` of them that are furthest in their life, of equals the oldest."""
    by_worth = sorted(replicas, key=lambda replica: -_EASE_OF_STOPPING.index(replica.state))
    return by_worth[: max(0, number)]
