"""A place at a replica, chosen now for a request that is sent later.

A reservation goes through the router like a request: it is queued, counts towards the limit of the queue, and gets
the replica that a request would get. Then it takes that place in this caller's count of what the replica runs, so
that requests made meanwhile go elsewhere. The replica is told nothing: other callers may fill it, and then the
request that uses the reservation waits in line there.
"""

from __future__ import annotations

import asyncio

from salver.data.routing.pinned import PinnedExchange
from salver.data.routing.replica_link import Exchange, ReplicaLink
from salver.errors import ReplicaUnavailableError
from salver.wire.frames import Frame


class Reservation:
    """An ``Exchange`` without a request; hand it to ``Router.reserve``, on the router's loop.

    ``ready`` gives the id of the chosen replica, or raises what a request would have been refused with. Cancelling it
    withdraws the reservation. Once it is ready, ``use`` or ``release`` must follow.

    Args:
        model_id, session_id: of the request to come.
    """

    retryable = False
    may_go_ahead = False

    def __init__(self, model_id: str = "", session_id: str = "") -> None:
        self.model_id = model_id
        self.session_id = session_id
        self.attempts = 0
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._link: ReplicaLink | None = None
        self._stream = 0
        self._ended = False
        """Used or released."""

    def use(self, exchange: Exchange) -> None:
        """Send ``exchange`` to the replica, in this place; refused with ReplicaUnavailableError if it is gone.

        Raises:
            RuntimeError: it is not ready, or was used or released before.
        """
        if self._ended or not self.ready.done():
            raise RuntimeError("a reservation is used once, after it is ready and before it is released")
        self._ended = True
        link, self._link = self._link, None
        if link is None:
            exchange.refused(ReplicaUnavailableError(self.ready.result(), "It has left since it was chosen."))
        else:
            link.replace(self._stream, PinnedExchange(exchange))

    def release(self) -> None:
        """Give the place back. Nothing happens when it was used, released or lost."""
        self._ended = True
        link, self._link = self._link, None
        if link is not None:
            link.release(self._stream)

    # --- Exchange ---------------------------------------------------------------------------------------

    @property
    def abandoned(self) -> bool:
        return self._ended or self.ready.cancelled()

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        link.unsent.add(stream)
        self.ready.set_result(link.route.replica_id)

    def frame_received(self, frame: Frame) -> None:
        """Nothing was sent, so nothing is answered."""

    def replica_lost(self, replica_id: str) -> None:
        self._link = None

    def refused(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
