"""Which replicas to stop and how many to start: the policy of scaling, of rolling updates and of replacing the worn.

A pure function of what is wanted and what there is, asked again after every event. It remembers no steps, so
an update that is itself updated, scaled or interrupted by a restart of the controller needs no case of its
own.

An update goes in steps of ``rolling_update_fraction`` (at least one replica): so many of the new version start beside
the old ones, and each that runs relieves one of them. The old ones are never more than what the new ones leave to be
done, and draining one never leaves fewer than wanted to serve. Rejected: stopping first (the reference), which loses
capacity; it is what happens when the machine has no room for both, for one step at a time.

A worn replica is like one of an old version, one of them at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from salver.control.replica import CONSTRUCTED, Replica, State
from salver.records import DeploymentSpec

_EASE_OF_STOPPING = (
    State.STARTING,
    State.INITIALIZING,
    State.HUNG,
    State.BLOCKED,
    State.RECOVERING,
    State.UPDATING,
    State.RUNNING,
)


class Plan(Struct, frozen=True):
    """What to do now.

    Attributes:
        stop: these, now.
        missing: so many start as soon as the back-off allows.
        in_the_way: when there is no room for ``missing``, these make it; they serve, and are of no use later.
    """

    stop: tuple[Replica, ...]
    missing: int
    in_the_way: tuple[Replica, ...] = ()


def plan(target: DeploymentSpec, wanted: int, replicas: Sequence[Replica], *, failed: bool) -> Plan:
    """Decide for one deployment.

    Args:
        target: what is wanted.
        wanted: how many replicas of it.
        replicas: all that there are, oldest first.
        failed: the target's version is given up, and there is no other to return to: what serves goes on, nothing
            of it starts.
    """
    live = [replica for replica in replicas if not replica.stopping]
    leaving = _leaving(target, live)
    new = [replica for replica in live if replica not in leaving]

    kept_new = _keep(new, wanted)
    if failed:
        kept_new = [replica for replica in kept_new if replica.serving]
    relieved = sum(replica.state in CONSTRUCTED for replica in kept_new)
    kept_old = _keep((replica for replica in leaving if replica.serving), wanted - relieved)

    kept = {replica.replica_id for replica in (*kept_new, *kept_old)}
    missing = 0 if failed else _missing(target, wanted, len(kept_new), len(kept_old))
    makes_room = missing > 0 and all(replica.state in CONSTRUCTED for replica in kept_new)
    return Plan(
        stop=tuple(replica for replica in live if replica.replica_id not in kept),
        missing=missing,
        in_the_way=tuple(kept_old[-step(target, wanted) :]) if makes_room else (),
    )


def step(target: DeploymentSpec, wanted: int) -> int:
    """How many replicas an update replaces at a time, and so may have in excess."""
    by_fraction = int(target.rolling_update_fraction * wanted)
    by_surge = math.ceil(target.max_surge_percent / 100 * wanted)
    return max(by_fraction, by_surge, 1)


def _missing(target: DeploymentSpec, wanted: int, new: int, old: int) -> int:
    room = wanted + step(target, wanted) - new - old
    return max(0, min(wanted - new, room))


def _leaving(target: DeploymentSpec, live: Iterable[Replica]) -> list[Replica]:
    """Those of other versions, and the one that has been worn for longest."""
    worn = [replica for replica in live if replica.worn and replica.version == target.version]
    return [replica for replica in live if replica.version != target.version or replica in worn[:1]]


def _keep(replicas: Iterable[Replica], number: int) -> list[Replica]:
    """The ``number`` of them that are furthest in their life, of equals the oldest."""
    by_worth = sorted(replicas, key=lambda replica: (-_EASE_OF_STOPPING.index(replica.state), replica.troubled))
    return by_worth[: max(0, number)]
