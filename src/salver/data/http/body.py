"""A request's body between the client and the replica.

A small body is received whole and leaves with the REQUEST frame. A large one streams: nothing of it is sent before
the replica has granted credit, which it does when it has taken the request. Until then it is all here, so that a
request that was answered BUSY can start elsewhere from its first byte; and a client that sends faster than user code
reads is not read from.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from salver.data.channel import Channel
from salver.wire.frames import END, Kind

INLINE_BODY_BYTES = 64 * 1024
"""A body up to this size is received whole and sent with the REQUEST frame."""

_READ_AHEAD_BYTES = 256 * 1024


_NONE: deque[bytes] = deque()  # even an empty one is 600 bytes, and most requests have no body


class BodySource(Protocol):
    """Where the bytes come from."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class RequestBody:
    """What has come of one body and is not sent.

    Args:
        source: paused while too much is held.
        streams: the body is large, or of unknown size.
    """

    __slots__ = ("_chunks", "_credit", "_held", "_paused", "_pieces", "_sent_all", "_source", "complete", "streams")

    def __init__(self, source: BodySource, *, streams: bool) -> None:
        self._source = source
        self._pieces: list[bytes] = []
        """Of a body that does not stream."""
        self._chunks: deque[bytes] = deque() if streams else _NONE
        """Of one that does, what is not sent."""
        self._held = 0
        self._credit = 0
        self._paused = False
        self._sent_all = False
        self.streams = streams
        self.complete = False

    def received(self, chunk: bytes) -> None:
        """The client's next bytes."""
        if not self.streams:
            self._pieces.append(chunk)
            return
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._held > _READ_AHEAD_BYTES and not self._paused:
            self._paused = True
            self._source.pause_reading()

    def whole(self) -> bytes:
        """All of a body that does not stream; it stays here, for another attempt."""
        pieces = self._pieces
        if not pieces:
            return b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def restart(self) -> None:
        """It goes to another replica, from its first byte."""
        self._credit = 0
        self._sent_all = False

    def grant(self, size: int) -> None:
        """The replica takes ``size`` more bytes."""
        self._credit += size

    def pump(self, channel: Channel, stream: int) -> None:
        """Send as much as was granted."""
        chunks = self._chunks
        while chunks and self._credit > 0:
            chunk = chunks.popleft()
            self._held -= len(chunk)
            self._credit -= len(chunk)
            self._send(channel, stream, chunk, last=self.complete and not chunks)
        if self.complete and not chunks and self._credit > 0 and not self._sent_all:
            self._send(channel, stream, b"", last=True)
        if self._paused and self._held <= _READ_AHEAD_BYTES // 2:
            self._paused = False
            self._source.resume_reading()

    def _send(self, channel: Channel, stream: int, chunk: bytes, *, last: bool) -> None:
        self._sent_all = last
        channel.send(Kind.BODY, stream, b"", chunk, END if last else 0)
