"""Routing of one deployment's requests, in one caller.

The router gives each request to the replica with the fewest requests in flight: its own count, or the load board's
when that is higher (others call too). When no replica has a free slot it queues, and says WAIT to the replicas whose
slots others hold; READY then reserves a slot for this caller. Nothing polls, nothing backs off, and callers get freed
slots in the order in which they asked.

What is known about a request decides what happens to it when something breaks: queued, or answered BUSY: it never
started, another replica gets it. Sent to a replica that then dies: the outcome is unknown, it fails.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Protocol

from salver.data.channel import Channel, Connect
from salver.data.load_board import LoadBoard
from salver.errors import BackPressureError, DeploymentUnavailableError
from salver.wire.frames import END, Frame, Kind
from salver.wire.messages import Hello
from salver.wire.snapshot import DeploymentRoute, ReplicaRoute

_SCAN_AT_MOST = 16  # above it, compare two random replicas: the scan would cost more than the better choice gains
_REDIAL_FIRST_S = 0.05
_REDIAL_MOST_S = 1.0


class Exchange(Protocol):
    """One request, as its caller sees it. The router calls exactly one of the ending methods."""

    abandoned: bool
    """The caller gave up while this waited in the queue: it is dropped."""

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        """Send the opening frames."""
        ...

    def frame_received(self, frame: Frame) -> None:
        """An answer frame came; the last one of the stream is the ending."""
        ...

    def replica_lost(self, replica_id: str) -> None:
        """Ending: the replica died after this was sent to it."""
        ...

    def refused(self, error: Exception) -> None:
        """Ending: it was never started, because the queue is full or the deployment is unavailable."""
        ...


class ReplicaLink:
    """The connection of one caller to one replica, and the requests in flight on it."""

    __slots__ = (
        "_dialling",
        "_next_stream",
        "_router",
        "channel",
        "leaving",
        "route",
        "slot",
        "streams",
        "waiting",
    )

    def __init__(self, router: Router, route: ReplicaRoute) -> None:
        self._router = router
        self.route = route
        self.slot = route.slot
        self.channel: Channel | None = None
        self.streams: dict[int, Exchange] = {}
        self.waiting = False
        """WAIT or BUSY was exchanged: nothing is sent until READY."""
        self.leaving = False
        self._next_stream = 1
        self._dialling: asyncio.Task[None] | None = None

    def dial(self, connect: Connect, hello: Hello) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._dial(connect, hello))

    async def _dial(self, connect: Connect, hello: Hello) -> None:
        delay = _REDIAL_FIRST_S
        while not self.leaving:
            try:
                self.channel = await connect(self.route.address, lambda: Channel(self, hello=hello))
            except OSError:
                await asyncio.sleep(delay * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret
                delay = min(delay * 2, _REDIAL_MOST_S)
            else:
                break
        self._dialling = None
        if self.leaving:
            self.leave()
        else:
            self._router.link_connected(self)

    def start(self, exchange: Exchange) -> None:
        stream = self._next_stream
        self._next_stream = stream + 1 if stream < 0xFFFFFFFF else 1
        self.streams[stream] = exchange
        exchange.dispatch(self, stream)

    def cancel(self, stream: int) -> None:
        """The caller no longer wants the answer."""
        if self.streams.pop(stream, None) is not None and self.channel is not None:
            self.channel.send(Kind.CANCEL, stream)
            self._stream_ended()

    def leave(self) -> None:
        """Send nothing more; close when the last answer has come."""
        self.leaving = True
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if not self.streams and self.channel is not None:
            self.channel.close()

    def close(self) -> None:
        """Hang up at once; nobody will know what became of the requests in flight."""
        self.leave()
        if self.channel is not None:
            self.channel.abort()
        lost, self.streams = self.streams, {}
        for exchange in lost.values():
            exchange.replica_lost(self.route.replica_id)

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.RESPONSE or kind == Kind.ERROR or (kind == Kind.DATA and frame.flags & END):
            exchange = self.streams.pop(frame.stream, None)
            if exchange is not None:
                exchange.frame_received(frame)
                self._stream_ended()
        elif kind == Kind.HEAD or kind == Kind.DATA or kind == Kind.CREDIT:
            exchange = self.streams.get(frame.stream)
            if exchange is not None:
                exchange.frame_received(frame)
        elif kind == Kind.BUSY:
            self._busy(frame)
        elif kind == Kind.READY:
            self.waiting = False
            self._router.slot_reserved(self)
        elif kind == Kind.GOAWAY:
            self._router.link_leaving(self)

    def _busy(self, frame: Frame) -> None:
        self.waiting = True
        exchange = self.streams.pop(frame.stream, None)
        if exchange is not None:
            self._router.not_started(exchange)
        if self.leaving and not self.streams and self.channel is not None:
            self.channel.close()

    def _stream_ended(self) -> None:
        if self.leaving:
            if not self.streams and self.channel is not None:
                self.channel.close()
        else:
            self._router.pump()

    def channel_lost(self, channel: Channel) -> None:
        if channel is not self.channel and self.channel is not None:
            return
        self.channel = None
        self.waiting = False
        lost, self.streams = self.streams, {}
        self._router.link_lost(self)
        for exchange in lost.values():
            exchange.replica_lost(self.route.replica_id)


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
        if 0 <= limit <= self._live_queue_length():
            exchange.refused(BackPressureError(len(self._queue), limit))
            return
        self._queue.append(exchange)
        self._ask_for_slots()

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
