"""How busy every autoscaled deployment is: what waits in callers, and what its replicas run.

Callers say what waits (DEMAND frames, over the connection on which they get the routing table); what they have said
goes with their connection. What replicas run is on the load board. The core gets both four times a second, when a
delay of it ends, and, when somebody waits for a deployment without replicas, at once. So a decision acts on what runs
at that moment, and on what a caller said of those that wait a tenth of a second before, at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from salver.control.events import Event, Load, LoadSampled
from salver.controller.vitals import Vitals
from salver.data.load_board import LoadBoard
from salver.wire.messages import Demand

SAMPLE_EVERY_S = 0.25


class LoadWatch:
    """The deployments whose load the core wants to know.

    Args:
        board: where replicas say how many requests they run; None counts none.
        slots: places on the board of a deployment's replicas, by ``app#deployment``; none while it has no replicas.
        tell: receives LoadSampled, from the event loop and from ``refresh``.
        vitals: is told how old the last counts were, and by how much the timer was late; None for nobody.

    Attributes:
        reports: how often callers have said what waits in them.
    """

    def __init__(
        self,
        board: LoadBoard | None,
        slots: Callable[[str], Iterable[int]],
        tell: Callable[[Event], None],
        vitals: Vitals | None = None,
    ) -> None:
        self.reports = 0
        self._vitals = vitals
        self._waits_s = self._due = 0.0
        self._sampled_at: float | None = None
        self._board = board
        self._slots = slots
        self._tell = tell
        self._watched: frozenset[str] = frozenset()
        self._demands: dict[Hashable, Demand] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, keys: Iterable[str]) -> None:
        """Sample these deployments from now on, and no others."""
        self._watched = frozenset(keys)
        if not self._watched:
            self.stop()
        elif self._timer is None:
            self._wake_after(0.0)

    def stop(self) -> None:
        """Sample nothing until ``watch``."""
        self._watched = frozenset()
        self._sampled_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def demand_received(self, connection: Hashable, demand: Demand) -> None:
        """A caller has said what waits in it: everything, so what it does not mention does not wait."""
        self.reports += 1
        self._demands[connection] = demand
        if any(key in self._watched and not list(self._slots(key)) for key in demand):
            self._wake_after(0.0)

    def connection_lost(self, connection: Hashable) -> None:
        """The caller is gone, or will say it again to us; unknown connections are fine."""
        self._demands.pop(connection, None)

    def refresh(self) -> None:
        """Tell the counts of this moment: a decision is due, and they may be those of a quarter of a second ago."""
        if self._timer is not None:
            self._sample()

    def _wake_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waits_s, self._due = seconds, time.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._woken)

    def _woken(self) -> None:
        if self._vitals is not None:
            self._vitals.woke(self._waits_s, time.monotonic() - self._due)
        self._sample()

    def _sample(self) -> None:
        now = time.monotonic()
        if self._vitals is not None and self._sampled_at is not None:
            self._vitals.sampled(now - self._sampled_at)
        self._sampled_at = now
        self._wake_after(SAMPLE_EVERY_S)
        queued: Counter[str] = Counter()
        for demand in self._demands.values():
            queued.update(demand)
        self._tell(LoadSampled({key: Load(float(queued[key]), self._running(key)) for key in self._watched}))

    def _running(self, key: str) -> float:
        if self._board is None:
            return 0.0
        cells = self._board.cells
        return float(sum(cells[slot] for slot in self._slots(key)))
