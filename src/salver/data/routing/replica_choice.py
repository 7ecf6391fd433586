"""Which replica a request goes to, of those that have a free slot as far as this caller knows.

*Any request* goes to the replica with the fewest requests: this caller's own count, or the load board's where that is
higher (others call too). Equals take turns. Above 16 replicas, two random ones are compared first: looking at all
would cost more than the better choice gains.

*A request for a model* goes to the least loaded of the replicas that hold it. When none holds it, or all that do are
full, it does not wait: the replica with the fewest models gets it, and loads it. So a model that is in demand spreads
over as many replicas as it keeps busy. Equals are ordered by a rendezvous hash of model and replica: callers that do
not know of each other send the first requests for a model to the same replica.

*A request of a session* goes to the session's first replica in the order of a rendezvous hash, if that has a free
slot, else where any request would go. A replica that comes or goes moves only its own sessions. A model goes before a
session.
"""

from __future__ import annotations

import random
from binascii import crc32
from collections.abc import Sequence

from salver.data.routing.replica_link import Exchange, ReplicaLink

_SCAN_AT_MOST = 16


class ReplicaChoice:
    """Chooses among ``links``. Every choice is None when no link has a free slot.

    Args:
        cells: the load board's, None without one.

    Attributes:
        links: connected and not leaving; the router adds and removes.
        capacity: slots of each replica.
    """

    __slots__ = ("_cells", "_turn", "capacity", "links")

    def __init__(self, cells: memoryview | None) -> None:
        self._cells = cells
        self._turn = 0
        self.capacity = 1
        self.links: list[ReplicaLink] = []

    def least_loaded(self) -> ReplicaLink | None:
        """For a request that any replica serves equally well."""
        links = self.links
        count = len(links)
        if count == 0:
            return None
        if count > _SCAN_AT_MOST:
            best = self._least(random.sample(links, 2), 0)
            if best is not None:
                return best
        self._turn = turn = (self._turn + 1) % count
        return self._least(links, turn)

    def ahead(self) -> ReplicaLink | None:
        """None has a free slot: the one where a request may wait for its turn."""
        best: ReplicaLink | None = None
        fewest = 1 << 32
        for link in self.links:
            sent = len(link.streams)
            ahead = link.pace.ahead
            if ahead and not link.waiting and not link.on_trial and sent < fewest and sent < self.capacity + ahead:
                best, fewest = link, sent
        return best

    def preferred(self, exchange: Exchange) -> ReplicaLink | None:
        """For a request of a model or a session."""
        model_id = exchange.model_id
        if model_id:
            return self._holder(model_id) or self._with_fewest_models(model_id)
        return self._of_session(exchange.session_id) or self.least_loaded()

    def has_room(self, link: ReplicaLink) -> bool:
        """Whether this link has a free slot."""
        if not link.connected or link.waiting or len(link.streams) >= self.capacity or link.tries_one:
            return False
        return self._cells is None or self._cells[link.slot] < self.capacity

    def _least(self, links: Sequence[ReplicaLink], first: int) -> ReplicaLink | None:
        """The link with the fewest requests below capacity; the one from ``first`` on when several are equal."""
        best: ReplicaLink | None = None
        best_load = self.capacity
        cells = self._cells
        count = len(links)
        for index in range(first, first + count):
            link = links[index if index < count else index - count]
            if link.waiting or (link.on_trial and link.streams):
                continue
            load = len(link.streams)
            if cells is not None and cells[link.slot] > load:
                load = cells[link.slot]
            if load < best_load:
                if load == 0:
                    return link
                best, best_load = link, load
        return best

    def _holder(self, model_id: str) -> ReplicaLink | None:
        holders = [link for link in self.links if model_id in link.models]
        if not holders:
            return None
        self._turn += 1
        return self._least(holders, self._turn % len(holders))

    def _with_fewest_models(self, model_id: str) -> ReplicaLink | None:
        free = [link for link in self.links if self.has_room(link)]
        if not free:
            return None
        fewest = min(len(link.models) for link in free)
        return _first_by_hash(model_id, [link for link in free if len(link.models) == fewest])

    def _of_session(self, session_id: str) -> ReplicaLink | None:
        if not self.links:
            return None
        link = _first_by_hash(session_id, self.links)
        return link if self.has_room(link) else None


def _first_by_hash(name: str, links: Sequence[ReplicaLink]) -> ReplicaLink:
    """Rendezvous hashing (Thaler and Ravishankar, 1998): the replica whose hash together with ``name`` is highest.

    Of Python's hashes only those of strings differ between processes; that of a pair of integers is the same in all,
    mixes well and costs a tenth of a digest.
    """
    key = crc32(name.encode("utf-8", "surrogatepass"))
    return max(links, key=lambda link: hash((key, link.seed)))
