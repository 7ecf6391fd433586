"""Sends what a schedule says, when it says so: the loop between schedule, connections and tally.

Everything happens in ``_pump``, which runs when a request is due and when a connection becomes free: while there are
both, the request takes the connection that was used last, or a new one as long as there may be more. With all of them
busy, nothing is done: requests wait in the schedule, in order, while their clocks run. A look ten times a second ends
what has taken too long.

The generator measures itself, too. Its *lag* is the time from when a request could have left, being due and with a
connection free, to when it did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from salver.bench import failure
from salver.bench.alarm import Alarm
from salver.bench.connection import Connection
from salver.bench.failure import Failure
from salver.bench.reach import Server
from salver.bench.request import Request
from salver.bench.schedule import Schedule
from salver.bench.tally import Tally

_LOOK_EVERY_S = 0.1
_CLOSED_WITHIN_S = 0.5


class Limits(NamedTuple):
    """What bounds a run.

    Attributes:
        connections: at most so many at once.
        timeout_s: from when a request was sent to the end of its answer, and as long for a connection before that:
            requests that had to wait would otherwise be given up while the server works on them.
    """

    connections: int
    timeout_s: float


class Generator:
    """One run. ``run`` ends when everything that was due has an outcome, or soon after ``stop``.

    Args:
        watch: called ten times a second.

    Attributes:
        opened: connections so far, those that failed among them.
    """

    def __init__(
        self,
        server: Server,
        request: Request,
        schedule: Schedule,
        tally: Tally,
        limits: Limits,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.opened = 0
        self._server = server
        self._request = request
        self._schedule = schedule
        self._tally = tally
        self._limits = limits
        self._timeout = int(limits.timeout_s * 1e9)
        self._watch = watch
        self._all: set[Connection] = set()
        self._idle: list[Connection] = []
        self._starved = False
        self._free_since = 0
        self._alarm: Alarm | None = None
        self._dials = asyncio.TaskGroup()
        self._done = asyncio.Event()
        self._gone = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        self._alarm = Alarm(asyncio.get_running_loop(), self._pump)
        try:
            async with self._dials:
                try:
                    self._pump()
                    await self._until_done()
                finally:
                    await self._close()
        finally:
            self._alarm.close()

    def stop(self) -> None:
        """Leave everything that is not finished as it is. May be called twice."""
        if not self._stopped:
            self._stopped = True
            self._leave(time.monotonic_ns())
            self._done.set()

    async def _until_done(self) -> None:
        while not self._done.is_set():
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._done.wait()
            except TimeoutError:
                self._look()

    # --- sending ----------------------------------------------------------------------------------------

    def _pump(self) -> None:
        now = time.monotonic_ns()
        while not self._stopped and (due := self._schedule.next_due(now)) is not None:
            if due > now:
                assert self._alarm is not None
                self._alarm.set(due)
                return
            if due < now - self._timeout:
                self._schedule.take()
                self._tally.expired(due)
                continue
            connection = self._idle.pop() if self._idle else self._new_connection()
            if connection is None:
                self._starved = True
                return
            self._schedule.take()
            self._tally.sent(due, self._free_since, now)
            connection.send(due, now)
        self._end_if_done(now)

    def _new_connection(self) -> Connection | None:
        if len(self._all) >= self._limits.connections:
            return None
        connection = Connection(self, self._request.wire, bodiless=self._request.method == "HEAD")
        self._all.add(connection)
        self.opened += 1
        connection.dial = self._dials.create_task(self._dial(connection))
        return connection

    async def _dial(self, connection: Connection) -> None:
        try:
            await self._server.connect(lambda: connection)
        except OSError as error:
            connection.undone(failure.of_dial(error))
        except asyncio.CancelledError:
            connection.undone(Failure.TIMEOUT)
            raise

    # --- what connections tell --------------------------------------------------------------------------

    def received(self, size: int, now: int) -> None:
        self._tally.received(size, now)

    def answered(self, connection: Connection, due: int, status: int, now: int) -> None:
        if self._stopped:
            return
        self._tally.answered(status, due, connection.first_byte, now)
        if connection.reusable:
            self._idle.append(connection)
            self._has_room(now)
        else:
            connection.end()  # and then there is room

    def lost(self, connection: Connection, due: int | None, why: Failure) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._stopped:
            if not self._all:
                self._gone.set()
            return
        if due is not None:
            self._tally.failed(why, due)
        self._has_room(time.monotonic_ns())

    def _has_room(self, now: int) -> None:
        if self._starved:
            self._starved = False
            self._free_since = now
            self._pump()
        else:
            self._end_if_done(now)

    def _end_if_done(self, now: int) -> None:
        if len(self._all) == len(self._idle) and self._schedule.next_due(now) is None:
            self._done.set()

    # --- deadlines, the end -----------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic_ns()
        for connection in list(self._all):
            if connection.due is not None and connection.sent < now - self._timeout:
                connection.end(Failure.TIMEOUT)
        self._pump()
        if self._watch is not None:
            self._watch()

    def _leave(self, now: int) -> None:
        """Count what runs, and what was due by now and waits."""
        self._tally.cut_short(now)
        for connection in self._all:
            if connection.due is not None:
                self._tally.left(connection.due)
        while (due := self._schedule.next_due(now)) is not None and due < now:
            self._schedule.take()
            self._tally.left(due)

    async def _close(self) -> None:
        self._stopped = True
        for connection in list(self._all):
            connection.end()
        if self._all:
            try:
                async with asyncio.timeout(_CLOSED_WITHIN_S):
                    await self._gone.wait()
            except TimeoutError:
                pass  # the loop closes what is left with itself
