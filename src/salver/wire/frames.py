"""Frames: how everything is said on a connection between two of our processes.

A frame is a fixed header, metadata (msgpack, see ``messages``), and a raw payload::

    u32 length of metadata and payload | u32 stream | u32 length of metadata | u8 kind | u8 flags | u16 load

*Stream* numbers one exchange on the connection; the dialling side chooses them, 0 is the connection itself.
*Load* is how many requests the sending replica runs, in BUSY and READY, and how many it may run, in SLOTS; 0 in
others, until callers on other machines, which have no load board, need it. Multi-byte numbers are little-endian:
both ends are on machines of one architecture family, and struct is faster for it.

The codec does no I/O and is total: any bytes give frames or one ProtocolError, wherever they are split.

Life of a stream, caller to replica and back::

    REQUEST | CALL  ->                     an HTTP request, or a handle call with a pickled payload
                    <-  BUSY               no free slot: not started, safe to send elsewhere; the end
                                           (with the flag AHEAD it may wait at the replica instead)
    BODY ...        ->                     more of the request body, as far as CREDIT allows; END on the last
                    <-  CREDIT             the replica took the request and has read this many body bytes
                    <-  RESPONSE           the whole answer; the end
                    <-  HEAD, DATA ...     a streamed answer; END on the last DATA; the end
                                           (pieces that were sent in one turn share one, with the flag PIECES)
    CREDIT          ->                     the caller has passed on this many bytes of DATA
                    <-  ERROR              user code raised, or the stream broke; the end
    CANCEL          ->                     nobody waits for the answer any more; the end for the caller

A handle call that streams is answered with HEAD and one DATA per item. A WebSocket is a REQUEST whose scheme is
``ws`` or ``wss``: HEAD accepts it, every BODY and DATA is one message, and END carries the close code.

On stream 0: HELLO (first, from the dialler), WAIT / READY / DECLINE (slots), SLOTS (how many requests the replica may
run from now on; nothing starts under a number that was not sent before), GOAWAY (draining), MODELS (which
multiplexed models the replica holds), RELEASE (a received value is no longer in the sender's shared memory), SNAPSHOT
(routing), and CONTROL with its RESPONSE or ERROR on a stream of its own. To the controller: METRICS, DEMAND (what
waits in a caller), REPORT (a replica wants to be replaced).
"""

from __future__ import annotations

import struct
from enum import IntEnum

from msgspec import Struct

from salver.errors import ProtocolError

HEADER = struct.Struct("<IIIBBH")
HEADER_SIZE = HEADER.size
MAX_FRAME_BYTES = 2**31
"""Largest metadata plus payload of one frame; a peer that announces more is not one of ours."""

_VIEW_FROM_BYTES = 64 * 1024  # larger payloads are passed on as views of the received buffer, not copied again


class Kind(IntEnum):
    """What a frame says; the module's text shows who sends which when. New kinds go at the end."""

    HELLO = 1
    CALL = 2
    REQUEST = 3
    BODY = 4
    RESPONSE = 5
    HEAD = 6
    DATA = 7
    ERROR = 8
    BUSY = 9
    CANCEL = 10
    CREDIT = 11
    WAIT = 12
    READY = 13
    DECLINE = 14
    GOAWAY = 15
    SNAPSHOT = 16
    CONTROL = 17
    MODELS = 18
    METRICS = 19
    RELEASE = 20
    DEMAND = 21
    REPORT = 22
    SLOTS = 23


KINDS = frozenset(int(kind) for kind in Kind)

END = 1
"""Flag on BODY, DATA and REQUEST: nothing of this direction follows."""

TEXT = 2
"""Flag on BODY and DATA of a WebSocket: the payload is a text message, not a binary one."""

SHARED = 4
"""Flag on CALL, RESPONSE and DATA: the payload refers to shared memory of its sender, who keeps it until RELEASE."""

AHEAD = 8
"""Flag on CALL and REQUEST: it may wait at the replica for a slot. On CANCEL: if it waits, give it back with BUSY."""

PIECES = 16
"""Flag on DATA of an HTTP answer: the payload is one or more pieces, as ``pieces`` writes them."""

MOST_LOAD = 0xFFFF
"""As a frame's load: so many, or more."""

Buffer = bytes | bytearray | memoryview


class Frame(Struct, gc=False):
    """One received frame. ``kind`` stays an int on the request path; compare with ``Kind``'s members."""

    kind: int
    flags: int
    stream: int
    load: int
    meta: bytes
    payload: Buffer


def encode_frame(
    kind: int, stream: int = 0, meta: bytes = b"", payload: Buffer = b"", flags: int = 0, load: int = 0
) -> bytes:
    """One frame as bytes. Large payloads are better sent as ``frame_head`` followed by the payload itself."""
    return frame_head(kind, stream, meta, len(payload), flags, load) + payload


def frame_head(kind: int, stream: int, meta: bytes, payload_size: int, flags: int = 0, load: int = 0) -> bytes:
    """Header and metadata of a frame whose payload of ``payload_size`` bytes is written next."""
    return HEADER.pack(len(meta) + payload_size, stream, len(meta), kind, flags, load) + meta


class FrameDecoder:
    """Turns received bytes into frames. After a ProtocolError the connection must be closed."""

    __slots__ = ("_chunks", "_have", "_max_frame_bytes", "_need")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = HEADER_SIZE

    @property
    def at_boundary(self) -> bool:
        """Whether the connection may end here without cutting a frame."""
        return self._have == 0

    @property
    def pending_bytes(self) -> int:
        """How much has come that is no whole frame yet."""
        return self._have

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes; raises ProtocolError when it cannot be our protocol."""
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._chunks)
            self._chunks = []
        return self._split(data)

    def _split(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        offset = 0
        size = len(data)
        need = HEADER_SIZE
        while size - offset >= HEADER_SIZE:
            length, stream, meta_length, kind, flags, load = HEADER.unpack_from(data, offset)
            if kind not in KINDS or meta_length > length or length > self._max_frame_bytes:
                raise ProtocolError(f"not a frame: kind {kind}, metadata {meta_length} of {length} bytes")
            need = HEADER_SIZE + length
            if size - offset < need:
                break
            start = offset + HEADER_SIZE
            middle = start + meta_length
            offset += need
            payload = data[middle:offset] if offset - middle < _VIEW_FROM_BYTES else memoryview(data)[middle:offset]
            frames.append(Frame(kind, flags, stream, load, data[start:middle], payload))
            need = HEADER_SIZE
        self._have = size - offset
        self._need = need
        if self._have:
            self._chunks.append(data[offset:] if offset else data)
        return frames
