"""Numbers of a deployment's replicas: 0 to n-1 when all of them run, for code that shares work among them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from salver.control.replica import Replica, State


def free_rank(members: Sequence[Replica]) -> int:
    """The smallest that nobody has."""
    taken = {replica.rank for replica in members}
    return next(rank for rank in itertools.count() if rank not in taken)


def assign_ranks(members: Sequence[Replica], wanted: int) -> None:
    """Close the gaps that leavers have left, once there are no more members than wanted.

    Only those that run are renumbered, and as few of them as possible: each is told by a ``reconfigure``.
    """
    if len(members) > wanted:
        return
    taken: set[int] = set()
    homeless: list[Replica] = []
    for replica in members:
        if 0 <= replica.rank < wanted and replica.rank not in taken:
            taken.add(replica.rank)
        else:
            homeless.append(replica)
    free = (rank for rank in range(wanted) if rank not in taken)
    for replica in homeless:
        if replica.state is State.RUNNING:
            replica.rank = next(free)
