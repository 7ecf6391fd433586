"""Routing of one deployment's requests, in one caller.

The router gives each request to the replica with the fewest requests in flight: its own count, or the load board's
when that is higher (others call too). When no replica has a free slot it queues, and says WAIT to the replicas whose
slots others hold; READY then reserves a slot for this caller. Nothing polls, nothing backs off, and callers get freed
slots in the order in which they asked.

What is known about a request decides what happens to it when something breaks: queued, or answered BUSY: it never
started, another replica gets it. Sent to a replica that then dies: the outcome is unknown, it fails.
"""

from __future__ import annotations

import random
from collections import deque

from salver.data.channel import Connect
from salver.data.load_board import LoadBoard
from salver.data.replica_link import Exchange, ReplicaLink
from salver.errors import BackPressureError, DeploymentUnavailableError
from salver.wire.frames import Kind
from salver.wire.messages import Hello
from salver.wire.snapshot import DeploymentRoute

_SCAN_AT_MOST = 16  # above it, compare two random replicas: the scan would cost more than the better choice gains


class Router:
    """Chooses replicas of one deployment for this caller's requests.

    Args:
        key: ``app#deployment``.
        connect, hello: how replicas are dialled.
        board: everybody's load; None when there is none (replicas on other machines).
    """

    def __init__(self, key: str, *, connect: Connect, hello: Hello, board: LoadBoard | None) -> None:
        self.key = key
        self._connect = connect
        self._hello = hello
        self._cells = board.cells if board is not None else None
        self._route = DeploymentRoute(key, (), 1, -1)
        self._capacity = 1
        self._links: dict[str, ReplicaLink] = {}
        self._ready: list[ReplicaLink] = []
        self._queue: deque[Exchange] = deque()
        self._turn = 0

    # --- the routing table ------------------------------------------------------------------------------

    def update(self, route: DeploymentRoute | None) -> None:
        """Follow the snapshot; None when the deployment is no longer in it."""
        if route is None:
            route = DeploymentRoute(self.key, (), 1, -1, "It does not exist, or was deleted.")
        self._route = route
        self._capacity = route.max_ongoing_requests
        wanted = {replica.replica_id: replica for replica in route.replicas}
        for replica_id in [known for known in self._links if known not in wanted]:
            self.link_leaving(self._links[replica_id])
        for replica_id, replica in wanted.items():
            if replica_id not in self._links:
                link = self._links[replica_id] = ReplicaLink(self, replica)
                link.dial(self._connect, self._hello)
        if route.unavailable and not wanted:
            self._refuse_all(DeploymentUnavailableError(self.key, route.unavailable))
        self.pump()

    def close(self) -> None:
        """Let go of every replica at once; queued requests are refused."""
        links = list(self._links.values())
        self.update(None)
        for link in links:
            link.close()

    @property
    def has_replicas(self) -> bool:
        """Whether at least one replica is connected."""
        return bool(self._ready)

    @property
    def queued(self) -> int:
        return len(self._queue)

    # --- requests ---------------------------------------------------------------------------------------

    def submit(self, exchange: Exchange) -> None:
        """Send the request now, or queue it, or refuse it."""
        if not self._queue:
            link = self._choose()
            if link is not None:
                link.start(exchange)
                return
        route = self._route
        if route.unavailable and not self._links:
            exchange.refused(DeploymentUnavailableError(self.key, route.unavailable))
            return
        limit = route.max_queued_requests
        if 0 <= limit <= self._live_queue_length() - self._slots_to_come():
            exchange.refused(BackPressureError(len(self._queue), limit))
            return
        self._queue.append(exchange)
        self._ask_for_slots()

    def _slots_to_come(self) -> int:
        """Slots of replicas that are being dialled: who waits for one of these has not met a full deployment."""
        return self._capacity * sum(link.channel is None for link in self._links.values())

    def _live_queue_length(self) -> int:
        queue = self._queue
        if any(exchange.abandoned for exchange in queue):
            self._queue = queue = deque(exchange for exchange in queue if not exchange.abandoned)
        return len(queue)

    def pump(self) -> None:
        """Send queued requests as far as there are free slots."""
        while self._queue:
            if self._queue[0].abandoned:
                self._queue.popleft()
                continue
            link = self._choose()
            if link is None:
                self._ask_for_slots()
                return
            link.start(self._queue.popleft())

    def not_started(self, exchange: Exchange) -> None:
        """A replica answered BUSY: the request goes to the front, and elsewhere if it can."""
        self._queue.appendleft(exchange)
        self.pump()

    def slot_reserved(self, link: ReplicaLink) -> None:
        """READY came: use the slot, or pass it on."""
        while self._queue:
            exchange = self._queue.popleft()
            if not exchange.abandoned:
                link.start(exchange)
                self.pump()
                return
        if link.channel is not None:
            link.channel.send(Kind.DECLINE)

    def _choose(self) -> ReplicaLink | None:
        ready = self._ready
        count = len(ready)
        if count == 0:
            return None
        if count > _SCAN_AT_MOST:
            best = self._least(random.sample(ready, 2), 0)
            if best is not None:
                return best
        self._turn = turn = (self._turn + 1) % count
        return self._least(ready, turn)

    def _least(self, links: list[ReplicaLink], first: int) -> ReplicaLink | None:
        """The link with the fewest requests below capacity; the one from ``first`` on when several are equal."""
        best: ReplicaLink | None = None
        best_load = self._capacity
        cells = self._cells
        count = len(links)
        for index in range(first, first + count):
            link = links[index if index < count else index - count]
            if link.waiting:
                continue
            load = len(link.streams)
            if cells is not None and cells[link.slot] > load:
                load = cells[link.slot]
            if load < best_load:
                if load == 0:
                    return link
                best, best_load = link, load
        return best

    def _ask_for_slots(self) -> None:
        for link in self._ready:
            if not link.waiting and len(link.streams) < self._capacity and link.channel is not None:
                link.waiting = True
                link.channel.send(Kind.WAIT)

    def _refuse_all(self, error: Exception) -> None:
        queue, self._queue = self._queue, deque()
        for exchange in queue:
            if not exchange.abandoned:
                exchange.refused(error)

    # --- links ------------------------------------------------------------------------------------------

    def link_connected(self, link: ReplicaLink) -> None:
        self._ready.append(link)
        self.pump()

    def link_leaving(self, link: ReplicaLink) -> None:
        """The replica drains or left the snapshot: it gets nothing more from us."""
        if link in self._ready:
            self._ready.remove(link)
        if self._links.get(link.route.replica_id) is link:
            del self._links[link.route.replica_id]
        link.leave()

    def link_lost(self, link: ReplicaLink) -> None:
        """The connection broke. Dial again while the snapshot lists the replica: it may live."""
        if link in self._ready:
            self._ready.remove(link)
        if self._links.get(link.route.replica_id) is link and not link.leaving:
            link.dial(self._connect, self._hello)
