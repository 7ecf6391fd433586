"""A channel: one connection between two of our processes, carrying frames of many streams.

Writes of one turn of the event loop are joined into one system call: uvloop makes one per ``write()``, and a proxy
that serves 64 clients sends dozens of small frames a turn (measured: 30 % of throughput). What is joined leaves one
turn later, which costs a look for events; so after a frame that came alone, what is sent next leaves at once: on the
side that dials (a caller's next request) the frame itself, on the other one what ``flush_alone`` finds, because an
answer must not be ahead of the slot that it frees.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import msgspec

from salver.data.shared_memory import SharedPayload, decode_release
from salver.errors import ProtocolError, StartupError
from salver.wire.frames import HEADER, PIECES, SHARED, Buffer, Frame, FrameDecoder, Kind, frame_head
from salver.wire.messages import PROTOCOL_VERSION, Hello, decode_hello, encode

logger = logging.getLogger("salver.channel")

_JOIN_BELOW_BYTES = 128 * 1024  # above it a payload is written by itself, not copied into the joined buffer

_JOIN_AT_MOST = 128  # parts; of a generator that never waits, the first items leave while it makes the next ones

_pack_header = HEADER.pack
_DATA = int(Kind.DATA)  # on Python 3.11 naming an enum's member costs 60 ns
_HELLO_BYTES = 4096


class Receiver(Protocol):
    """What a channel's owner does with what arrives."""

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        """May raise ProtocolError or msgspec's DecodeError: the other side is not one of ours, and is hung up on."""
        ...

    def channel_lost(self, channel: Channel) -> None: ...


class Channel(asyncio.Protocol):
    """Frames over a stream transport.

    Args:
        receiver: told of every frame, and once of the end.
        hello: sent first, by the side that dials.
        expect_key: the session key that the other side's hello must hold, on the side that accepts; until it came
            no other frame is passed on.
        on_hello: called when it came and was right: nothing must be sent to the dialler before.
    """

    def __init__(
        self,
        receiver: Receiver,
        *,
        hello: Hello | None = None,
        expect_key: bytes | None = None,
        on_hello: Callable[[Channel], None] | None = None,
    ) -> None:
        self._receiver = receiver
        self._hello = hello
        self._expect_key = expect_key
        self._on_hello = on_hello
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._out: list[Buffer] = []
        self._flush_scheduled = False
        self._came_alone = False
        self._growing = 0
        """The stream whose pieces are the last frame of ``_out``; 0 for none."""
        self._grown_from = 0
        """Where in ``_out`` the header of that frame is to be."""
        self._unreleased: dict[int, SharedPayload] = {}
        """Values in shared memory, by their number, that the other side has not opened yet."""
        self.sender = ""
        self.closed = False

    # --- sending ----------------------------------------------------------------------------------------

    def send(
        self,
        kind: int,
        stream: int = 0,
        meta: bytes = b"",
        payload: Buffer = b"",
        flags: int = 0,
        load: int = 0,
    ) -> None:
        """Queue one frame; it leaves with all others of this turn of the loop. Nothing happens when closed."""
        if self.closed:
            return
        if self._growing:
            self._end_growth()
        meta_size, size = len(meta), len(payload)
        out = self._out
        header = _pack_header(meta_size + size, stream, meta_size, kind, flags, load)
        if self._came_alone and self._hello is not None and not out and size < _JOIN_BELOW_BYTES:
            self._came_alone = False
            self._transport_write(b"".join((header, meta, payload)))
            return
        out.append(header)
        if meta_size:
            out.append(meta)
        if size < _JOIN_BELOW_BYTES or self._transport is None:
            if size:
                out.append(payload if type(payload) is bytes else bytes(payload))  # its owner may write to it again
        else:
            self._flush()
            self._transport_write(payload)
            return
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)
        elif len(self._out) >= _JOIN_AT_MOST:
            self._flush()

    def send_piece(self, stream: int, piece: bytes) -> None:
        """Queue one piece of an answer, formatted as in ``pieces``; those that follow one another share a frame."""
        if self._growing == stream:
            self._out.append(piece)
            if len(self._out) >= _JOIN_AT_MOST:
                self._flush()
            return
        self.send(_DATA, stream, b"", piece, PIECES)
        if self._out:
            self._growing = stream
            self._grown_from = len(self._out) - 2

    def _end_growth(self) -> None:
        """The frame of pieces is complete: now its length is known."""
        size = sum(map(len, self._out[self._grown_from + 1 :]))
        self._out[self._grown_from] = _pack_header(size, self._growing, 0, _DATA, PIECES, 0)
        self._growing = 0

    def send_value(self, kind: int, stream: int, value: Buffer | SharedPayload) -> None:
        """Like ``send``, for what ``dump_value`` gave; shared memory is kept until the other side says RELEASE."""
        if not isinstance(value, SharedPayload):
            self.send(kind, stream, b"", value)
        elif not self.closed:
            self._unreleased[value.number] = value
            self.send(kind, stream, b"", value.data, SHARED)

    def value_released(self, frame: Frame) -> None:
        """RELEASE came."""
        value = self._unreleased.pop(decode_release(frame.meta), None)
        if value is not None:
            value.close()

    def flush(self) -> None:
        """Hand over now what is queued; what the kernel does not take is ``backlog_bytes``."""
        self._flush()

    def flush_alone(self) -> None:
        """The same, if what came last came alone; else it waits for what others have to say in this turn."""
        if self._came_alone:
            self._came_alone = False
            self._flush()

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._growing:
            self._end_growth()
        out = self._out
        if out and self._transport is not None:
            self._out = []
            self._transport_write(out[0] if len(out) == 1 else b"".join(out))

    def _transport_write(self, data: Buffer) -> None:
        if not self.closed:
            cast(asyncio.Transport, self._transport).write(data)

    @property
    def backlog_bytes(self) -> int:
        """How much the other side has not taken from the kernel, nor the kernel from us."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send what is queued, then close; ``channel_lost`` follows."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._expect_key is not None and not same_user(transport):
            self._transport.abort()
            return
        if self._hello is not None:
            meta = encode(self._hello)
            self._out.insert(0, frame_head(Kind.HELLO, 0, meta, 0))  # before what was sent while it was dialled
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
            self._came_alone = len(frames) == 1
            if self._expect_key is not None:
                self._await_hello(frames)
            receiver = self._receiver
            for frame in frames:
                receiver.frame_received(self, frame)
        except (ProtocolError, msgspec.DecodeError) as error:
            logger.warning("hung up on %s: %s", self.sender or "a process that did not introduce itself", error)
            self.abort()

    def _await_hello(self, frames: list[Frame]) -> None:
        """Take the first frame; a stranger that announces a long one is not given the memory for it."""
        if frames:
            self._check_hello(frames.pop(0))
        elif self._decoder.pending_bytes > _HELLO_BYTES:
            raise ProtocolError("the first frame is too long for a hello")

    def _check_hello(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO:
            raise ProtocolError("a frame came before the hello")
        hello = decode_hello(frame.meta)
        if hello.version != PROTOCOL_VERSION or hello.key != self._expect_key:
            raise ProtocolError(f"hello of another instance or protocol version ({hello.version})")
        self._expect_key = None
        self.sender = hello.sender
        if self._on_hello is not None:
            self._on_hello(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._growing = 0
            self._out.clear()
            self._unreleased.clear()
            self._receiver.channel_lost(self)


def same_user(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end of a Unix socket runs as this user (or root); other transports are in this process."""
    peer = cast("socket.socket | None", transport.get_extra_info("socket"))
    if peer is None or peer.family != socket.AF_UNIX:
        return True
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in {0, os.getuid()}


Connect = Callable[[str, Callable[[], Channel]], Awaitable[Channel]]
"""Dial an address with the channel that the factory makes. Raises OSError when nobody listens."""


async def connect_unix(address: str, factory: Callable[[], Channel]) -> Channel:
    """``Connect`` for ``unix:/path`` addresses."""
    scheme, _, path = address.partition(":")
    if scheme != "unix":
        raise StartupError(f"cannot dial {address!r} from here: not a Unix socket")
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_unix_connection(factory, path)
    return channel
