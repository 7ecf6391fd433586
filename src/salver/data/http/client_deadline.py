"""How long a client may let a connection wait: one deadline, and what it is a deadline of.

Deadlines are absolute. A client renews that of its body by kilobytes, not byte by byte; that of a head never; that of
a reader when it has taken something of what was written, were it only out of the kernel's buffer.
"""

from __future__ import annotations

import asyncio

from salver.data.http.client_socket import unread_bytes
from salver.data.http.limits import HTTPLimits

NEVER = float("inf")

_RENEWED_BY_BYTES = 4096
_LINGER_S = 2.0
_NEW_FOR_S = 0.25
_NEWCOMER_S = 1.0


class ClientDeadline:
    """The deadline of one connection.

    Attributes:
        at: when it passes, on the loop's clock; ``NEVER`` while nobody waits for the client.
        head_begun: it is that of a head whose first byte, or the line end before it, has come.
    """

    __slots__ = ("_body_since_renewal", "_limits", "_loop", "_unread", "at", "head_begun")

    def __init__(self, limits: HTTPLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._body_since_renewal = 0
        self._unread = 0
        """Bytes that the client had not read when its deadline as a reader was set."""
        self.head_begun = False
        self.at = NEVER

    def of_head(self) -> None:
        """The client has connected, or has begun a request."""
        self.at = self._loop.time() + self._limits.header_timeout_s

    def of_newcomer(self) -> bool:
        """Nothing has come yet, and we are leaving. Whether the client has only just connected: it gets a moment."""
        now = self._loop.time()
        is_new = now - (self.at - self._limits.header_timeout_s) < _NEW_FOR_S
        if is_new:
            self.at = now + _NEWCOMER_S
        return is_new

    def of_next_request(self, *, begun: bool) -> None:
        """It is the client's turn; a head that it has begun while it was answered must come to its end."""
        self.head_begun = begun
        wait_s = self._limits.header_timeout_s if begun else self._limits.keep_alive_timeout_s
        self.at = self._loop.time() + wait_s

    def of_body(self, *, reading: bool) -> None:
        """More of the body must come. The client is not late with what we do not read."""
        self._body_since_renewal = 0
        self.at = self._loop.time() + self._limits.body_idle_timeout_s if reading else NEVER

    def has_come(self, size: int) -> bool:
        """So much more of the body has; whether that earns it more time."""
        self._body_since_renewal += size
        return self._body_since_renewal >= _RENEWED_BY_BYTES

    def of_reader(self, transport: asyncio.Transport) -> None:
        """The client must read something of what was written for it."""
        self._unread = unread_bytes(transport)
        self.at = self._loop.time() + self._limits.body_idle_timeout_s

    def has_read(self, transport: asyncio.Transport) -> bool:
        """Whether it has since."""
        return unread_bytes(transport) < self._unread

    def of_goodbye(self) -> None:
        """The last has been said; the client may hang up."""
        self.at = self._loop.time() + _LINGER_S
