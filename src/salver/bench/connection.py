"""One connection to the server: one request at a time, kept alive between them.

No streams, no coroutines, no pipelining: a request is one ``write``, an answer is what the parser says while bytes
arrive. Bodies are never assembled; of each answer there are a status, two times and a number of bytes.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

from salver.bench import failure
from salver.bench.failure import Failure

_FRAMES_A_BODY = frozenset({b"content-length", b"transfer-encoding"})
_LENGTHS = frozenset(map(len, _FRAMES_A_BODY))

_FINAL = 200
"""Statuses below it announce an answer that is still to come."""


class Owner(Protocol):
    """What has connections."""

    def received(self, size: int, now: int) -> None:
        """Bytes of an answer have come."""
        ...

    def answered(self, connection: Connection, due: int, status: int, now: int) -> None:
        """The answer to the request that was due then is whole."""
        ...

    def lost(self, connection: Connection, due: int | None, why: Failure) -> None:
        """It is gone, once, and with it the request that was due then, if one ran."""
        ...


class Connection(asyncio.Protocol):
    """Carries the request ``wire`` whenever it is told to.

    Args:
        bodiless: answers have no body, whatever their heads say: the method is HEAD.

    Attributes:
        due: of the request that runs; None while none does.
        sent: when that was sent, or had a connection to wait for.
        first_byte: when its answer began; 0 before that.
        dial: the task that connects, once there is one.
        reusable: whether another request may follow the one that was answered.
    """

    def __init__(self, owner: Owner, wire: bytes, *, bodiless: bool) -> None:
        self.due: int | None = None
        self.sent = 0
        self.first_byte = 0
        self.dial: asyncio.Task[None] | None = None
        self.reusable = True
        self._owner = owner
        self._wire = wire
        self._bodiless = bodiless
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._status = 0
        self._head_complete = False
        self._framed = False
        self._why: Failure | None = None

    def send(self, due: int, now: int) -> None:
        """Send the request that was due then; before there is a connection, as soon as there is one."""
        self.due = due
        self.sent = now
        self.first_byte = 0
        if self._transport is not None:
            self._transport.write(self._wire)

    def end(self, why: Failure | None = None) -> None:
        """End it without ceremony; ``lost`` is told soon, with ``why`` for the request that runs."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()
        elif self.dial is not None:
            self.dial.cancel()

    def undone(self, why: Failure) -> None:
        """There will be no connection."""
        if self._parser is not None:
            self._parser = None  # which refers to this
            due, self.due = self.due, None
            self._owner.lost(self, due, self._why or why)

    # --- asyncio's side ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no base class
        if self.due is not None:
            self._transport.write(self._wire)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self.due is None or self._parser is None:
            self.end()  # it speaks although nobody has asked: what follows could not be told from an answer
            return
        self.first_byte = self.first_byte or now
        self._owner.received(len(data), now)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.reusable = False
            if not self._status:
                self.end(Failure.MALFORMED)
        if self._status:
            self._answered(self.due, now)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        ends_its_body = exc is None and self._why is None and self._head_complete and not self._framed
        if self.due is not None and self._parser is not None and ends_its_body:
            self._status = self._parser.get_status_code()  # HTTP/1.0: the body ends where the connection does
            self.reusable = False
            self._answered(self.due, time.monotonic_ns())
        self.undone(failure.of_loss(exc, within_answer=self.first_byte > 0))

    def _answered(self, due: int, now: int) -> None:
        status, self._status, self.due = self._status, 0, None
        self._head_complete = self._framed = False
        if self._bodiless:
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for the body
        self._owner.answered(self, due, status, now)

    # --- the parser's side ------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._status:
            self.reusable = False  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) in _LENGTHS and name.lower() in _FRAMES_A_BODY:
            self._framed = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        self._head_complete = status >= _FINAL
        if self._bodiless and self._head_complete:
            self._status = status

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= _FINAL and not self._status:
            self._status = status
            self.reusable = self.reusable and self._parser.should_keep_alive()
