"""The control thread of a replica: shows that the process lives, and says where its event loop is blocked.

User coroutines share the event loop with our I/O, so code that computes or waits without ``await`` stops both. A
thread beside the loop still runs then. It writes to the load board:

- ``beats``, twice a second. They stop when the process is stopped, or when native code keeps Python's lock (the GIL)
  from every other thread: from outside both look the same.
- ``loop_beats``. While requests run it asks the loop to answer (``call_soon_threadsafe``); while an answer is owed,
  loop_beats stays behind beats by the seconds that it is owed. A loop that runs no requests is asked every 5 s.
- ``rss``, every 2 s, or 5 s.

After 1 s without an answer it logs where the loop's thread is, once per blockage, and once more when that is over.
The first beat comes when the constructor has returned: that may block the loop, and the controller has its own
reminders.

Time in which this thread itself was not allowed to run is not counted against the loop, which then did not run
either: a process that was stopped is not told that it was blocked.

A wake-up is all that this costs while nothing goes on, so it is kept short and rare.
"""

from __future__ import annotations

import asyncio
import logging
import math
import mmap
import os
import signal
import threading
import time

from salver.data.load_board import LoadBoard
from salver.data.replica.loop_stack import locate

logger = logging.getLogger("salver.replica")

_BEAT_EVERY_S = 0.5
_LOOK_EVERY_S = 0.1
_RSS_EVERY_S = 2.0
_IDLE_EVERY_S = 5.0
_WARN_AFTER_S = 1.0
_STOPPED_S = 1.0
_ENDS_WITHIN_S = 1.0
_FOR_THE_MAIN_THREAD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2}
_ADVICE = (
    "Nothing else runs in this replica meanwhile: use `def` instead of `async def`, "
    "or `await asyncio.to_thread(...)`, for what computes or waits"
)


class ControlThread:
    """Watches the event loop that ``start`` is called on.

    Args:
        board, slot: where it writes; the slot's ``cells`` say whether requests run.
        name: of the deployment, for the log.
    """

    def __init__(self, board: LoadBoard, slot: int, name: str) -> None:
        self._board = board
        self._slot = slot
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._ending = threading.Lock()  # held until it is to end: waiting for a lock takes less than for an Event
        self._thread = threading.Thread(target=self._run, name="salver-control", daemon=True)
        self._question = 0
        self._answer = 0  # the only thing that the loop's thread writes
        self._asked_at = -math.inf
        self._rss_at = -math.inf
        self._warned = False
        self._last_place = ""

    def start(self) -> None:
        """Begin to beat. To be called when the user's object is constructed."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._ending.acquire()
        self._thread.start()

    def stop(self) -> None:
        """End the thread. May be called twice, and without ``start``."""
        if self._thread.is_alive():
            self._end()
            self._thread.join(_ENDS_WITHIN_S)

    def _end(self) -> None:
        if self._ending.locked():
            self._ending.release()

    # --- in the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_MAIN_THREAD)  # faulthandler shows the thread that gets it
        wait = 0.0
        due = time.monotonic()
        while not self._ending.acquire(timeout=wait):
            now = time.monotonic()
            if now - due > _STOPPED_S:
                self._asked_at += now - due
            wait = _LOOK_EVERY_S if self._beat(now) else _BEAT_EVERY_S
            due = now + wait

    def _beat(self, now: float) -> bool:
        """Write what is known now; whether the loop has been owing an answer since the last time."""
        board, slot = self._board, self._slot
        idle = not board.cells[slot]
        owing = self._answer != self._question
        owed_s = now - self._asked_at if owing else 0.0
        if not owing:
            if self._warned:
                self._tell_end(now - self._asked_at)
            if not idle or now - self._asked_at >= _IDLE_EVERY_S:
                self._ask(now)
        elif owed_s >= _WARN_AFTER_S and not self._warned:
            self._tell(owed_s)
        board.loop_beats[slot] = int((now - owed_s) * 1000)  # first: readers must not see the other one advance alone
        board.beats[slot] = int(now * 1000)
        if now - self._rss_at >= (_IDLE_EVERY_S if idle else _RSS_EVERY_S):
            self._rss_at = now
            board.rss[slot] = resident_bytes()
        return owing

    def _ask(self, now: float) -> None:
        assert self._loop is not None
        self._asked_at = now
        self._question += 1
        try:
            self._loop.call_soon_threadsafe(self._answered, self._question)
        except RuntimeError:  # the loop is closed
            self._end()

    def _answered(self, question: int) -> None:
        self._answer = question

    def _tell(self, seconds: float) -> None:
        self._warned = True
        location = locate(self._loop_thread)
        if location is None:
            return
        self._board.set_place(self._slot, location.place)
        again = location.place == self._last_place
        self._last_place = location.place
        logger.warning(
            "the event loop of %s has been blocked for %.0f s at %s in %s%s",
            self._name,
            seconds,
            location.place,
            location.function,
            ", as before" if again else f". {_ADVICE}\n{location.stack}",
        )

    def _tell_end(self, seconds: float) -> None:
        self._warned = False
        logger.warning("the event loop of %s answers again after %.1f s", self._name, seconds)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, pages that it shares included."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)  # half of what a Path takes for it
    try:
        return int(os.read(descriptor, 200).split()[1]) * mmap.PAGESIZE
    finally:
        os.close(descriptor)
