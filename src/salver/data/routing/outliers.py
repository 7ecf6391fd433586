"""Replicas that fail every request while others do not: this caller sends them none for a while.

Whoever fails at once is always the least loaded, and would be sent everything. So a replica that has failed a few
requests in a row is left out for a second, then tried with one request, and after each that fails left out for twice
as long as before (outlier detection, as Envoy has it).

Failures that come and go are the fault of the requests: as long as a replica recovers from one, nobody is left out.
Nor is it any use when nobody answers well, and half of the replicas always stay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from salver.data.routing.replica_link import ReplicaLink

logger = logging.getLogger("salver.router")

_IN_A_ROW = 5
_FIRST_S, _LONGEST_S = 1.0, 30.0


class Outliers:
    """Those of one deployment.

    Args:
        links: what is chosen from; outliers are taken out of it, and put back in.
        let_in: called when one was put back.
    """

    def __init__(self, links: list[ReplicaLink], let_in: Callable[[], None]) -> None:
        self._links = links
        self._let_in = let_in
        self._left_out: dict[ReplicaLink, asyncio.TimerHandle] = {}
        self._times: dict[ReplicaLink, int] = {}
        self._counted_since: dict[ReplicaLink, int] = {}
        self._recoveries = 0

    def __contains__(self, link: ReplicaLink) -> bool:
        return link in self._left_out

    def failed(self, link: ReplicaLink) -> bool:
        """It answered with a failure of the user's code; whether it is left out from now on."""
        if link in self._left_out:
            return False  # sent before
        if self._counted_since.get(link) != self._recoveries:
            self._counted_since[link] = self._recoveries
            link.failures = 0
        link.failures += 1
        if link.failures < _IN_A_ROW or not self._can_do_without(link):
            return False
        self._leave_out(link)
        return True

    def recovered(self, link: ReplicaLink) -> None:
        """It answered well after failures."""
        link.failures = 0
        link.on_trial = False
        self._recoveries += 1
        self._times.pop(link, None)

    def forget(self, link: ReplicaLink) -> None:
        """Its connection is gone, or it is leaving."""
        if (timer := self._left_out.pop(link, None)) is not None:
            timer.cancel()
        self._times.pop(link, None)
        self._counted_since.pop(link, None)
        link.failures = 0
        link.on_trial = False

    def _can_do_without(self, link: ReplicaLink) -> bool:
        others = [other for other in self._links if other is not link]
        return len(others) > len(self._left_out) and not all(other.failures for other in others)

    def _leave_out(self, link: ReplicaLink) -> None:
        times = self._times[link] = self._times.get(link, 0) + 1
        seconds = min(_FIRST_S * 2 ** (times - 1), _LONGEST_S)
        self._links.remove(link)
        self._left_out[link] = asyncio.get_running_loop().call_later(seconds, self._back, link)
        logger.warning(
            "replica %s has failed %d requests in a row, and others have not: it gets no more for %g s",
            link.route.replica_id,
            link.failures,
            seconds,
        )

    def _back(self, link: ReplicaLink) -> None:
        """One more failure, and it is out again."""
        del self._left_out[link]
        link.failures = _IN_A_ROW - 1
        link.on_trial = True
        self._counted_since[link] = self._recoveries
        self._links.append(link)
        self._let_in()
