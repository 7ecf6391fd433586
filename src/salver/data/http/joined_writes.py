"""Small writes to one client, joined: those of one turn of the event loop leave in one system call."""

from __future__ import annotations

import asyncio

from salver.wire.frames import Buffer

JOIN_BELOW_BYTES = 64 * 1024
"""What is larger is written by itself: to copy it costs more than a system call."""

_JOIN_AT_MOST = 64  # one turn may be long: libuv goes on reading for as long as a replica goes on writing


class JoinedWrites:
    """What waits to be written to one transport. What comes after its end is dropped."""

    __slots__ = ("_loop", "_out", "_scheduled", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._out: list[Buffer] = []
        self._scheduled = False

    def add(self, data: Buffer) -> None:
        """Write it with everything else of this turn."""
        if not data:
            return
        if len(data) >= JOIN_BELOW_BYTES:
            self.flush()
            self._out.append(data)
            self.flush()
            return
        self._out.append(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        elif len(self._out) >= _JOIN_AT_MOST:
            self.flush()

    def flush(self) -> None:
        """Write it now: something is to come after it by another way."""
        self._scheduled = False
        out = self._out
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        self._out = []
