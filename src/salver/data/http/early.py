"""Requests that came before their application was deployed: they wait here until it is, each within its time."""

from __future__ import annotations

from collections.abc import Iterator

from salver.data.http.exchange import RequestExchange
from salver.errors import DeploymentUnavailableError

LONGEST_S = 60.0
"""For requests that have no deadline of their own."""

_MOST = 10_000
_NOBODY_YET = "It is not deployed yet."


class EarlyRequests:
    """In the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[RequestExchange] = []
        self._closed = False

    def add(self, exchange: RequestExchange) -> None:
        """Keep a request that has begun; when its time is up it answers for itself, with its ``timeout_status``."""
        if len(self._waiting) >= _MOST:  # of most, the client may be gone
            self._waiting = [each for each in self._waiting if not each.abandoned]
        if self._closed or len(self._waiting) >= _MOST:
            _refuse(exchange)
            return
        if exchange.timeout_s is None:
            exchange.limit(LONGEST_S)
        self._waiting.append(exchange)

    def take(self) -> Iterator[RequestExchange]:
        """All that still want an answer, without the time limit that they had here; they may be added again."""
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            if not exchange.abandoned:
                exchange.lift_limit()
                yield exchange

    def close(self) -> None:
        """Nothing will be deployed any more that they could wait for."""
        self._closed = True
        for exchange in self.take():
            _refuse(exchange)


def _refuse(exchange: RequestExchange) -> None:
    exchange.refused(DeploymentUnavailableError("", _NOBODY_YET))
