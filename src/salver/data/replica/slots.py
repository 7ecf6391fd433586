"""A replica's slots: who may run, who waits in line, for whom a slot is reserved.

Callers stand in line, each once, however much each has to send, and a slot that frees goes to the first of them. If
requests of that caller are here already, sent ahead, the first of these starts. Otherwise the slot is reserved for
the caller and offered with READY; a reservation that is not used within a second goes to the next, so that a stopped
caller cannot hold a slot.

Two promises let a caller know what a replica that died had not started (``ReplicaLink.ahead``). Requests of one
caller start in the order in which they came. And none that was sent ahead starts before all answers to that caller
are written: it is given its slot a turn later, so that those join in one write, and a caller that does not take what
is written gets its requests back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from salver.data.channel import Channel
from salver.wire.frames import MOST_LOAD, Frame, Kind

_RESERVED_FOR_S = 1.0
_MOST_AHEAD = 64
"""Of one caller; callers of ours send half as many."""


def load_of(requests: int) -> int:
    """A number of requests for a frame's header."""
    return min(requests, MOST_LOAD)


def _all_is_written(channel: Channel) -> bool:
    channel.flush()
    return not channel.backlog_bytes


class Slots:
    """Slots of one replica, none before ``open``.

    Args:
        cells, index: the load board's cell in which the number of running requests is published.
        start: starts a request that was sent ahead, in a slot that has been taken for it.
    """

    def __init__(self, cells: memoryview, index: int, start: Callable[[Channel, Frame], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._cells = cells
        self._index = index
        self._start = start
        self._capacity = 0
        self._line: dict[Channel, None] = {}
        self._asked: set[Channel] = set()
        """Those in line that wait for READY; others have requests here."""
        self._ahead: dict[Channel, dict[int, Frame]] = {}
        self._reserved: dict[Channel, asyncio.TimerHandle] = {}
        self._offers_soon = False
        self.running = 0
        self._publish()

    @property
    def load(self) -> int:
        """The number of running requests, for a frame's header."""
        return load_of(self.running)

    @property
    def capacity(self) -> int:
        """How many requests may run."""
        return self._capacity

    def open(self, capacity: int) -> None:
        """Let ``capacity`` requests run at a time; those in line are told.

        Of more that run, or have been promised a slot, none is stopped: none is started until there are fewer.
        """
        self._capacity = capacity
        self._offer(start=False)

    def close(self) -> None:
        """Give no slot any more, and give back what was sent ahead; what runs goes on."""
        self._capacity = 0
        self._line.clear()
        self._asked.clear()
        for timer in self._reserved.values():
            timer.cancel()
        self._reserved.clear()
        for channel in list(self._ahead):
            self._give_back_all(channel)

    def clear(self) -> None:
        """Nothing runs any more: the last thing that is published."""
        self.close()
        self.running = 0
        self._publish()

    def take(self, channel: Channel) -> bool:
        """A slot for a request of this caller; whether there was one."""
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
        elif self._line or self.running + len(self._reserved) >= self._capacity:
            return False
        self.running += 1
        self._publish()
        return True

    def give_back(self) -> None:
        """A request has ended."""
        self.running -= 1
        self._publish()
        if self._line:
            self._offer(start=False)

    def wait(self, channel: Channel) -> None:
        """Put this caller in line, for READY."""
        self._asked.add(channel)
        self._line[channel] = None
        self._offer(start=False)

    def decline(self, channel: Channel) -> None:
        """This caller does not use its reservation."""
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
            self._offer(start=False)

    def forget(self, channel: Channel) -> None:
        """This caller has hung up."""
        self._line.pop(channel, None)
        self._asked.discard(channel)
        self._ahead.pop(channel, None)
        self.decline(channel)

    # --- requests that were sent ahead ------------------------------------------------------------------

    def keep(self, channel: Channel, frame: Frame) -> bool:
        """Keep a request until there is a slot; whether there was room to."""
        ahead = self._ahead.setdefault(channel, {})
        if len(ahead) >= _MOST_AHEAD or not self._capacity:
            return False
        ahead[frame.stream] = frame
        self._line[channel] = None
        return True

    def keeps(self, channel: Channel, stream: int) -> bool:
        """Whether this request is here and has not started."""
        ahead = self._ahead.get(channel)
        return ahead is not None and stream in ahead

    def drop(self, channel: Channel, stream: int) -> bool:
        """Keep this request no longer; whether it was here."""
        ahead = self._ahead.get(channel)
        if ahead is None or ahead.pop(stream, None) is None:
            return False
        if not ahead and channel not in self._asked:
            self._line.pop(channel, None)
        return True

    def _give_back_all(self, channel: Channel) -> None:
        for stream in self._ahead.pop(channel, ()):
            channel.send(Kind.BUSY, stream, load=self.load)

    # --- giving slots away ------------------------------------------------------------------------------

    def _offer_after_writes(self) -> None:
        self._offers_soon = False
        self._offer(start=True)

    def _offer(self, *, start: bool) -> None:
        """Give free slots to those in line.

        Args:
            start: also to what was sent ahead. READY does not wait for that: it goes with the answer that made room,
                before the client that gets it can send another request, which would find the queue still full.
        """
        while self._line and self.running + len(self._reserved) < self._capacity:
            channel = next(iter(self._line))
            ahead = self._ahead.get(channel)
            if ahead and not start:
                if not self._offers_soon:
                    self._offers_soon = True
                    self._loop.call_soon(self._offer_after_writes)
                return
            del self._line[channel]
            if ahead and not _all_is_written(channel):
                self._give_back_all(channel)
                self._asked.add(channel)
                self._line[channel] = None
            elif ahead:
                frame = ahead.pop(next(iter(ahead)))
                if ahead or channel in self._asked:
                    self._line[channel] = None
                self.running += 1
                self._publish()
                self._start(channel, frame)
            else:
                self._asked.discard(channel)
                if channel not in self._reserved:
                    self._reserved[channel] = self._loop.call_later(_RESERVED_FOR_S, self.decline, channel)
                channel.send(Kind.READY, load=self.load)

    def _publish(self) -> None:
        self._cells[self._index] = self.running
