"""Which replicas give no sign of life, and which are only blocked: what the load board says, told as events.

Every control thread beats twice a second, and says with its beats how long the event loop has owed an answer. So
there is nothing to ask, and a replica that is stopped costs nobody a wait. A replica that has never beaten is still
being constructed, or its engine has no control threads: it is never accused.

Silence is counted only while we watched: when this process was stopped, or got no processor, the replicas
may have been in the same position. After a round that comes late everybody has the whole time again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from salver.control.events import Event, ReplicaResponsive, ReplicaSilent
from salver.control.replica import SILENT_AFTER_S
from salver.data.load_board import LoadBoard

_LOOK_EVERY_S = 0.25
_LATE_S = 0.5
_HUNG = "no sign of life for 2 s: it is stopped, or native code holds Python's lock (the GIL)"


class _Watched:
    """A replica: its slot, since when it is watched, and what was said last (hung, blocked: False, neither: None)."""

    def __init__(self, slot: int, since: float) -> None:
        self.slot = slot
        self.since = since
        self.told: bool | None = None


class Liveness:
    """Watches replicas of this machine.

    Args:
        board: what their control threads write.
        tell: receives ReplicaSilent and ReplicaResponsive, once for each change.
        woke: is told at every look how long it was to wait, and by how much it came too late.
        clock: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        board: LoadBoard,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
        woke: Callable[[float, float], None] = lambda _after_s, _late_s: None,
    ) -> None:
        self._board = board
        self._tell = tell
        self._woke = woke
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._started = False
        self._due = 0.0
        self._counted_from = 0.0

    def start(self) -> None:
        """Begin to look, on the running loop, whenever there is somebody to watch."""
        self._started = True
        self._look_later()

    def stop(self) -> None:
        """Look no more. May be called twice."""
        self._started = False
        self._rest()

    def watch(self, replica_id: str, slot: int) -> None:
        """Watch a replica from now on; one that is watched already is fine."""
        known = self._watched.get(replica_id)
        if known is None or known.slot != slot:
            self._watched[replica_id] = _Watched(slot, self._clock())
        self._look_later()

    def forget(self, replica_id: str) -> None:
        """Its process has ended, or it is to be left alone; unknown ones are fine."""
        self._watched.pop(replica_id, None)
        if not self._watched:
            self._rest()

    def _look_later(self) -> None:
        if self._started and self._timer is None and self._watched:
            self._due = self._clock() + _LOOK_EVERY_S
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        self.check()
        self._look_later()

    def check(self) -> None:
        """One round. Called by the timer; by tests that bring their own clock, every 250 ms of it."""
        now = self._clock()
        self._woke(_LOOK_EVERY_S, now - self._due)
        if now - self._due > _LATE_S:
            self._counted_from = now
        self._due = now + _LOOK_EVERY_S
        for replica_id in list(self._watched):
            watched = self._watched.get(replica_id)
            if watched is not None:  # what we tell may have made somebody forget it
                self._judge(replica_id, watched, now)

    def _judge(self, replica_id: str, watched: _Watched, now: float) -> None:
        beat_ms = self._board.beats[watched.slot]
        if not beat_ms:
            return
        owed_ms = beat_ms - self._board.loop_beats[watched.slot]
        silent_since = beat_ms / 1000
        if now - silent_since < SILENT_AFTER_S:
            found = False if owed_ms >= SILENT_AFTER_S * 1000 else None
        elif now - max(silent_since, watched.since, self._counted_from) >= SILENT_AFTER_S:
            found = True
        else:
            return  # nobody can tell yet
        if found is watched.told:
            return
        watched.told = found
        self._tell(self._event(replica_id, watched))

    def _event(self, replica_id: str, watched: _Watched) -> Event:
        if watched.told is None:
            return ReplicaResponsive(replica_id)
        if watched.told:
            return ReplicaSilent(replica_id, _HUNG, hung=True)
        place = self._board.place(watched.slot)
        where = f" (at {place})" if place else ""
        return ReplicaSilent(replica_id, f"its event loop has been blocked for 2 s{where}", hung=False)
