"""Sends this process's metrics to the controller: everything at once, at most once a second, only after a change.

Values are cumulative, so nothing is ever acknowledged or sent again: the next snapshot says it all. A controller that
comes later (the first, or the next one after a crash) gets everything there is within a second: each process waits
for a part of it, by chance, for all of them connect in one moment and would push together from then on.

Nothing runs between a push and the next change. The first change starts a timer of one second, and what changes
meanwhile goes with it. A controller that does not read keeps what it has in its socket: while that is so nothing is
added for it.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets

import msgspec

from salver.data.channel import Channel
from salver.telemetry.metrics import Registry
from salver.wire.frames import Kind

PUSH_AFTER_S = 1.0


class MetricsPush:
    """Pushes one registry, on the loop of the first ``add``.

    Each push is a METRICS frame: its metadata is a name of this process that no other one has had, its payload the
    ``FamilySnapshot`` records.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._process = f"{os.getpid()}-{secrets.token_hex(8)}".encode()
        self._channels: list[Channel] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, channel: Channel) -> None:
        """Push to a controller that has connected or was dialled, from now on until it hangs up."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._registry.listen(self._changed)
        self._channels.append(channel)
        self._push_later(PUSH_AFTER_S * random.random())  # noqa: S311 - to spread, not to hide

    def close(self) -> None:
        """Push what is new, and no more after that. May be called twice."""
        self._registry.listen(None)
        if self._registry.changed or self._timer is not None:
            self._push()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._channels.clear()
        self._loop = None

    def _changed(self) -> None:
        """Of any thread."""
        loop = self._loop
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._push_later)
        except RuntimeError:
            pass  # a user's thread counts on while its process ends

    def _push_later(self, delay_s: float = PUSH_AFTER_S) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(delay_s, self._push)

    def _push(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._channels = [channel for channel in self._channels if not channel.closed]
        ready = [channel for channel in self._channels if not channel.backlog_bytes]
        if len(ready) < len(self._channels):
            self._push_later()
        if not ready:
            return  # with no controller at all, changes stay untold until one is added
        families = self._registry.snapshot()
        if families:
            payload = msgspec.msgpack.encode(families)
            for channel in ready:
                channel.send(Kind.METRICS, 0, self._process, payload)
