"""Waking up at the microsecond: libuv's timers, and asyncio's, round to milliseconds.

Requests would leave up to a millisecond late, and all latencies would be that much too long. So the time of the next
request is set in a timer of the kernel, timerfd_create(2), whose descriptor the event loop watches. Python has that
from 3.13 on, hence ctypes. The alternative is to spin, which takes a core from the server.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)
_create = _libc.timerfd_create
_set_time = _libc.timerfd_settime


class Alarm:
    """Calls ``ring`` on ``loop`` at the time that was set last; one alarm, one time.

    Args:
        loop: that runs.
        ring: called once for each time that was set and has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._set_for = 0
        self._spec = _Itimerspec()
        self._at = ctypes.byref(self._spec)
        self._timer: int = _create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create: " + os.strerror(ctypes.get_errno()))
        loop.add_reader(self._timer, self._rings)

    def set(self, at: int) -> None:
        """Ring at ``at``, of ``time.monotonic_ns``; at once if that is past. Replaces what was set before."""
        if at == self._set_for:
            return
        self._set_for = at
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(at, 1_000_000_000)
        _set_time(self._timer, _ABSOLUTE, self._at, None)

    def close(self) -> None:
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _rings(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return  # it was set anew after it had rung
        self._set_for = 0
        self._ring()
