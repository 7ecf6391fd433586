"""Small writes to one client, joined: those of one turn of the event loop leave in one system call."""

from __future__ import annotations

import asyncio


class JoinedWrites:
    """What waits to be written to one transport. What comes after its end is dropped."""

    __slots__ = ("_loop", "_out", "_scheduled", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._out: list[bytes] = []
        self._scheduled = False

    def add(self, data: bytes) -> None:
        """Write it with everything else of this turn."""
        if not data:
            return
        self._out.append(data)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write it now: something is to come after it by another way."""
        self._scheduled = False
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()
