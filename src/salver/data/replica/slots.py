"""A replica's slots: who may run, who waits in line, for whom a slot is reserved.

A slot that frees while somebody waits is reserved for the first in line and offered with READY. A reservation that is
not used within a second goes to the next, so that a stopped caller cannot hold a slot.
"""

from __future__ import annotations

import asyncio

from salver.data.channel import Channel
from salver.wire.frames import Kind

_RESERVED_FOR_S = 1.0
_MOST_LOAD = 0xFFFF  # what a frame's header can say


class Slots:
    """Slots of one replica, none before ``open``.

    Args:
        cells, index: the load board's cell in which the number of running requests is published.
    """

    def __init__(self, cells: memoryview, index: int) -> None:
        self._cells = cells
        self._index = index
        self._capacity = 0
        self._line: dict[Channel, None] = {}
        self._reserved: dict[Channel, asyncio.TimerHandle] = {}
        self.running = 0
        self._publish()

    @property
    def load(self) -> int:
        """The number of running requests, for a frame's header."""
        return min(self.running, _MOST_LOAD)

    def open(self, capacity: int) -> None:
        """Let ``capacity`` requests run at a time; those in line are told.

        Of more that run, or have been promised a slot, none is stopped: none is started until there are fewer.
        """
        self._capacity = capacity
        self._offer()

    def close(self) -> None:
        """Give no slot any more; what runs goes on."""
        self._capacity = 0
        self._line.clear()
        for timer in self._reserved.values():
            timer.cancel()
        self._reserved.clear()

    def clear(self) -> None:
        """Nothing runs any more: the last thing that is published."""
        self.close()
        self.running = 0
        self._publish()

    def take(self, channel: Channel) -> bool:
        """A slot for a request of this caller; whether there was one. If not, the caller is in line."""
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
        elif self.running + len(self._reserved) >= self._capacity:
            self._line[channel] = None
            return False
        self.running += 1
        self._publish()
        return True

    def give_back(self) -> None:
        """A request has ended."""
        self.running -= 1
        self._publish()
        if self._line:
            self._offer()

    def wait(self, channel: Channel) -> None:
        """Put this caller in line."""
        self._line[channel] = None
        self._offer()

    def decline(self, channel: Channel) -> None:
        """This caller does not use its reservation."""
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
            self._offer()

    def forget(self, channel: Channel) -> None:
        """This caller has hung up."""
        self._line.pop(channel, None)
        self.decline(channel)

    def _offer(self) -> None:
        loop = asyncio.get_running_loop()
        while self._line and self.running + len(self._reserved) < self._capacity:
            channel = next(iter(self._line))
            del self._line[channel]
            if channel not in self._reserved:
                self._reserved[channel] = loop.call_later(_RESERVED_FOR_S, self.decline, channel)
            channel.send(Kind.READY, load=self.load)

    def _publish(self) -> None:
        self._cells[self._index] = self.running
