"""Routing of one deployment's requests, in one caller.

The router gives each request to a replica with a free slot; ``replica_choice`` says to which. When no replica has one
it queues, and says WAIT to the replicas whose slots others hold; READY then reserves a slot for this caller. Nothing
polls, nothing backs off, and callers get freed slots in the order in which they asked.

Where requests are short, some of those that wait do so at a replica, where they still count as queued (``pace``).

Requests leave the queue in the order in which they came, but for models: a slot that frees goes to one of the first
requests whose model is on that replica, so that a busy deployment does not load a model for each request. The head of
the queue is passed over so often and no more.

What is known about a request decides what happens to it when something breaks: queued, or answered BUSY: it never
started, another replica gets it. Sent to a replica that then dies: the outcome is unknown; it fails, unless the
deployment is idempotent (``retry_budget``).

A request may also be for one replica alone (``submit_to``, or the one that a ``Reservation`` got). It waits on that
replica's link, before everything else that waits for it, and fails with the replica.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from salver.data.channel import Connect
from salver.data.load_board import LoadBoard
from salver.data.routing.outliers import Outliers
from salver.data.routing.pinned import PinnedExchange
from salver.data.routing.replica_choice import ReplicaChoice
from salver.data.routing.replica_link import Exchange, ReplicaLink
from salver.data.routing.reservation import Reservation
from salver.data.routing.retry_budget import send_again
from salver.errors import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from salver.wire.frames import Kind
from salver.wire.messages import Hello
from salver.wire.snapshot import DeploymentRoute

_STALLED_AFTER_S = 0.01
"""What waits at a replica that has ended nothing for so long is taken back: a fifth of that was expected."""

_LOOK_AHEAD = 16  # how far into the queue a free slot looks for a request of its replica's models
_PASSED_OVER_AT_MOST = 16  # how often in a row that may cost the head of the queue its turn


class Router:
    """Chooses replicas of one deployment for this caller's requests.

    Args:
        key: ``app#deployment``.
        connect, hello: how replicas are dialled.
        board: everybody's load; None when there is none (replicas on other machines).
        on_wait: called when requests have to wait; None when nobody wants to know.
    """

    def __init__(
        self,
        key: str,
        *,
        connect: Connect,
        hello: Hello,
        board: LoadBoard | None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.key = key
        self._connect = connect
        self._hello = hello
        self._on_wait = on_wait
        self._choice = ReplicaChoice(board.cells if board is not None else None)
        self._route = DeploymentRoute(key, (), 1, -1)
        self._links: dict[str, ReplicaLink] = {}
        self._queue: deque[Exchange] = deque()
        self._passed_over = 0
        self._look_timer: asyncio.TimerHandle | None = None
        self._outliers = Outliers(self._choice.links, self.pump)

    # --- the routing table ------------------------------------------------------------------------------

    def update(self, route: DeploymentRoute | None) -> None:
        """Follow the snapshot; None when the deployment is no longer in it."""
        if route is None:
            route = DeploymentRoute(self.key, (), 1, -1, "It does not exist, or was deleted.")
        self._route = route
        self._choice.capacity = route.max_ongoing_requests
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
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        for link in links:
            link.close()

    @property
    def has_replicas(self) -> bool:
        """Whether at least one replica is connected."""
        return bool(self._choice.links)

    def replica_ids(self) -> list[str]:
        """The replicas that are connected and not leaving."""
        return [link.route.replica_id for link in self._choice.links]

    @property
    def queued(self) -> int:
        """Requests that have no slot, wherever they wait."""
        capacity = self._choice.capacity
        links = self._links.values()
        return len(self._queue) + sum(len(link.pinned) + max(0, len(link.streams) - capacity) for link in links)

    @property
    def waiting(self) -> int:
        """Requests that wait for a free slot and that somebody still waits for."""
        return self._live_queue_length()

    # --- requests ---------------------------------------------------------------------------------------

    def submit(self, exchange: Exchange) -> None:
        """Send the request now, or queue it, or refuse it."""
        if not self._queue:
            if exchange.model_id or exchange.session_id:
                link = self._choice.preferred(exchange)
            else:
                link = self._choice.least_loaded()
            if link is not None:
                link.start(exchange)
                return
        route = self._route
        if route.unavailable and not self._links:
            exchange.refused(DeploymentUnavailableError(self.key, route.unavailable))
        elif not self._refused_as_full(exchange):
            if not self._queue and (link := self._ahead(exchange)) is not None:
                link.start(exchange)
            else:
                self._queue.append(exchange)
                self._ask_for_slots()

    def submit_to(self, replica_id: str, exchange: Exchange) -> None:
        """Send the request to this replica, or have it wait for this replica, or refuse it."""
        link = self._links.get(replica_id)
        if link is None:
            exchange.refused(ReplicaUnavailableError(replica_id, f"It is no replica of {self.key}, or has left."))
        elif not link.pinned and self._choice.has_room(link):
            link.start(PinnedExchange(exchange))
        elif not self._refused_as_full(exchange):
            link.pinned.append(PinnedExchange(exchange))
            link.ask_for_slot()
            self._tell_of_waiting()

    def reserve(self, reservation: Reservation) -> None:
        """Choose a replica for a request that comes later."""
        self.submit(reservation)

    def pump(self) -> None:
        """Send queued requests as far as there are free slots."""
        while self._queue:
            if self._queue[0].abandoned:
                self._queue.popleft()
                continue
            head = self._queue[0]
            has_preference = head.model_id or head.session_id
            link = self._choice.preferred(head) if has_preference else self._choice.least_loaded()
            if link is not None:
                link.start(self._next_for(link))
            elif (link := self._ahead(head)) is not None:
                link.start(self._queue.popleft())
            else:
                self._ask_for_slots()
                return

    def not_started(self, link: ReplicaLink, exchange: Exchange) -> None:
        """A replica answered BUSY: the request goes to the front, and elsewhere if it can."""
        if not isinstance(exchange, PinnedExchange):
            self._queue.appendleft(exchange)
            self.pump()
        elif link.leaving:
            exchange.refused(_has_left(link))
        else:
            link.pinned.appendleft(exchange)
            self._tell_of_waiting()

    def slot_reserved(self, link: ReplicaLink) -> None:
        """READY came: use the slot, or pass it on."""
        _drop_abandoned(link.pinned)
        _drop_abandoned(self._queue)
        if link.pinned:
            link.start(link.pinned.popleft())
            self._pump_pinned(link)
        elif self._queue and not link.leaving and link not in self._outliers and not link.tries_one:
            link.start(self._next_for(link))
        elif link.channel is not None:
            link.channel.send(Kind.DECLINE)
        self.pump()

    def _next_for(self, link: ReplicaLink) -> Exchange:
        """Take from the queue, whose head is not abandoned, what a free slot of this replica serves best."""
        queue = self._queue
        if link.models and queue[0].model_id not in link.models and self._passed_over < _PASSED_OVER_AT_MOST:
            for index, exchange in enumerate(islice(queue, _LOOK_AHEAD)):
                if exchange.model_id in link.models and not exchange.abandoned:
                    self._passed_over += 1
                    del queue[index]
                    return exchange
        self._passed_over = 0
        return queue.popleft()

    def _pump_pinned(self, link: ReplicaLink) -> None:
        """Send what waits for this replica alone, as far as it has free slots."""
        while link.pinned:
            if link.pinned[0].abandoned:
                link.pinned.popleft()
            elif self._choice.has_room(link):
                link.start(link.pinned.popleft())
            else:
                link.ask_for_slot()
                return

    # --- requests that wait at replicas -----------------------------------------------------------------

    def _ahead(self, exchange: Exchange) -> ReplicaLink | None:
        """No replica has a free slot for it: the one where it may wait, if there is one."""
        if exchange.model_id or exchange.session_id or not exchange.may_go_ahead:
            return None
        link = self._choice.ahead()
        if link is not None and self._look_timer is None and len(self._choice.links) > 1:
            self._look_again()
        return link

    def _look_again(self) -> None:
        """Look later whether what waits at a replica would be served elsewhere."""
        self._look_timer = asyncio.get_running_loop().call_later(_STALLED_AFTER_S, self._look_for_stalled)

    def _look_for_stalled(self) -> None:
        self._look_timer = None
        links = self._choice.links
        busy = [link for link in links if len(link.streams) > self._choice.capacity]
        stalled = [link for link in busy if not link.pace.ended_some]
        if len(stalled) < len(links):
            for link in stalled:
                link.pace.slowed()
                link.take_back()
        for link in busy:
            link.pace.ended_some = False
        if busy and len(links) > 1:
            self._look_again()

    # --- the queue --------------------------------------------------------------------------------------

    def _refused_as_full(self, exchange: Exchange) -> bool:
        """Whether no more requests may wait; then this one has been told."""
        route = self._route
        limit = route.max_queued_requests
        if limit < 0 or self._live_queue_length() - self._slots_to_come() < limit:
            return False
        error = BackPressureError(self.queued, limit, route.backpressure_status, route.retry_after_s)
        exchange.refused(error)
        return True

    def _slots_to_come(self) -> int:
        """Slots of replicas that are being dialled: who waits for one of these has not met a full deployment."""
        return self._choice.capacity * sum(not link.connected for link in self._links.values())

    def _live_queue_length(self) -> int:
        self._queue = _without_abandoned(self._queue)
        for link in self._links.values():
            link.pinned = _without_abandoned(link.pinned)
        return self.queued

    def _tell_of_waiting(self) -> None:
        if self._on_wait is not None:
            self._on_wait()

    def _ask_for_slots(self) -> None:
        self._tell_of_waiting()
        capacity = self._choice.capacity
        for link in self._choice.links:
            if not link.waiting and len(link.streams) < capacity and not link.tries_one:
                link.ask_for_slot()

    def _refuse_all(self, error: Exception) -> None:
        queue, self._queue = self._queue, deque()
        for exchange in queue:
            if not exchange.abandoned:
                exchange.refused(error)

    # --- links ------------------------------------------------------------------------------------------

    def link_connected(self, link: ReplicaLink) -> None:
        self._choice.links.append(link)
        self._pump_pinned(link)
        self.pump()

    def link_failed(self, link: ReplicaLink) -> None:
        """Its user's code failed a request; what waits there can go elsewhere, should it be left out now."""
        if link in self._choice.links and self._outliers.failed(link):
            link.take_back()

    def link_recovered(self, link: ReplicaLink) -> None:
        self._outliers.recovered(link)

    def link_leaving(self, link: ReplicaLink) -> None:
        """The replica drains or left the snapshot: it gets nothing more from us."""
        self._outliers.forget(link)
        if link in self._choice.links:
            self._choice.links.remove(link)
        if self._links.get(link.route.replica_id) is link:
            del self._links[link.route.replica_id]
        for stream, exchange in list(link.streams.items()):
            if isinstance(exchange, Reservation):  # the replica is not kept waiting for a request that may never come
                del link.streams[stream]
                exchange.replica_lost(link.route.replica_id)
        link.take_back()
        link.leave()
        pinned, link.pinned = link.pinned, deque()
        for exchange in pinned:
            if not exchange.abandoned:
                exchange.refused(_has_left(link))

    def link_lost(self, link: ReplicaLink, lost: Sequence[Exchange], not_started: Sequence[Exchange]) -> None:
        """The connection broke. Dial again while the snapshot lists the replica: it may live."""
        self._outliers.forget(link)
        if link in self._choice.links:
            self._choice.links.remove(link)
        if self._links.get(link.route.replica_id) is link and not link.leaving:
            link.dial(self._connect, self._hello)
        again = self._to_send_again(lost)
        self._queue.extendleft(reversed([*again, *not_started]))
        for exchange in lost:
            if exchange not in again:
                exchange.replica_lost(link.route.replica_id)
        if self._route.unavailable and not self._links:
            self._refuse_all(DeploymentUnavailableError(self.key, self._route.unavailable))
        elif self._queue:
            self.pump()

    def _to_send_again(self, lost: Sequence[Exchange]) -> list[Exchange]:
        route = self._route
        if not route.idempotent or (route.unavailable and not self._links):
            return []
        running = (exchange for link in self._links.values() for exchange in link.streams.values())
        return send_again(lost, running, self._queue, replica_slots=route.max_ongoing_requests)


def _has_left(link: ReplicaLink) -> ReplicaUnavailableError:
    return ReplicaUnavailableError(link.route.replica_id, "It has left, or is shutting down.")


def _drop_abandoned(queue: deque[Exchange]) -> None:
    """Up to the first that somebody waits for."""
    while queue and queue[0].abandoned:
        queue.popleft()


def _without_abandoned(queue: deque[Exchange]) -> deque[Exchange]:
    if any(exchange.abandoned for exchange in queue):
        return deque(exchange for exchange in queue if not exchange.abandoned)
    return queue
