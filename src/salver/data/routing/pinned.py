"""A request for one replica and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salver.wire.frames import Frame

if TYPE_CHECKING:
    from salver.data.routing.replica_link import Exchange, ReplicaLink


class PinnedExchange:
    """Wraps an ``Exchange``, so that whoever gets it back knows that it can go nowhere else."""

    __slots__ = ("_exchange", "model_id", "session_id")

    retryable = False
    may_go_ahead = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.model_id = exchange.model_id
        self.session_id = exchange.session_id

    @property
    def abandoned(self) -> bool:
        return self._exchange.abandoned

    @property
    def attempts(self) -> int:
        return self._exchange.attempts

    @attempts.setter
    def attempts(self, count: int) -> None:
        self._exchange.attempts = count

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._exchange.dispatch(link, stream)

    def frame_received(self, frame: Frame) -> None:
        self._exchange.frame_received(frame)

    def replica_lost(self, replica_id: str) -> None:
        self._exchange.replica_lost(replica_id)

    def refused(self, error: Exception) -> None:
        self._exchange.refused(error)
