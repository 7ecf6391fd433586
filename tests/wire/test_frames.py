"""Frames: what is encoded comes out again, wherever the network cuts it; anything else is one ProtocolError."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import ProtocolError
from salver.wire.frames import (
    END,
    HEADER,
    HEADER_SIZE,
    MAX_FRAME_BYTES,
    Frame,
    FrameDecoder,
    Kind,
    encode_frame,
    frame_head,
)

SEQUENCE = [
    Frame(Kind.HELLO, 0, 0, 0, b"meta", b""),
    Frame(Kind.CALL, 0, 1, 0, b"m", b"payload"),
    Frame(Kind.WAIT, 0, 0, 0, b"", b""),
    Frame(Kind.DATA, END, 0xFFFFFFFF, 0xFFFF, b"", b"x" * 40),
    Frame(Kind.CONTROL, 0xFF, 7, 1, b"a longer piece of metadata", b"\x00\xff"),
]


def wire(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.stream, frame.meta, frame.payload, frame.flags, frame.load)


BYTES = b"".join(wire(frame) for frame in SEQUENCE)
BOUNDARIES = {sum(len(wire(frame)) for frame in SEQUENCE[:count]) for count in range(len(SEQUENCE) + 1)}


def test_a_frame_keeps_every_field() -> None:
    assert FrameDecoder().feed(BYTES) == SEQUENCE


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_known_to_the_decoder(kind: Kind) -> None:
    [frame] = FrameDecoder().feed(encode_frame(kind))
    assert frame.kind == kind


def test_head_and_payload_may_be_written_apart() -> None:
    payload = b"p" * 1000
    assert frame_head(Kind.DATA, 3, b"meta", len(payload), END, 2) + payload == encode_frame(
        Kind.DATA, 3, b"meta", payload, END, 2
    )


def test_every_split_gives_the_same_frames() -> None:
    for cut in range(len(BYTES) + 1):
        decoder = FrameDecoder()
        assert decoder.feed(BYTES[:cut]) + decoder.feed(BYTES[cut:]) == SEQUENCE, cut
        assert decoder.at_boundary


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 16, 17, 31])
def test_every_piece_size_gives_the_same_frames(size: int) -> None:
    decoder = FrameDecoder()
    frames: list[Frame] = []
    for start in range(0, len(BYTES), size):
        frames += decoder.feed(BYTES[start : start + size])
    assert frames == SEQUENCE
    assert decoder.at_boundary


def test_every_end_of_the_connection_is_seen_as_clean_or_cut() -> None:
    for cut in range(len(BYTES) + 1):
        whole = FrameDecoder()
        frames = whole.feed(BYTES[:cut])
        assert frames == SEQUENCE[: len(frames)]
        assert whole.at_boundary == (cut in BOUNDARIES), cut
        by_bytes = FrameDecoder()
        for position in range(cut):
            by_bytes.feed(BYTES[position : position + 1])
        assert by_bytes.at_boundary == (cut in BOUNDARIES), cut


def test_an_empty_feed_changes_nothing() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(b"") == []
    decoder.feed(BYTES[:5])
    assert decoder.feed(b"") == []
    assert decoder.feed(BYTES[5:]) == SEQUENCE


def test_a_large_frame_comes_in_pieces() -> None:
    payload = bytes(range(256)) * (12 * 1024 * 1024 // 256)
    data = encode_frame(Kind.DATA, 9, b"meta", payload) + encode_frame(Kind.CANCEL, 9)
    decoder = FrameDecoder()
    frames: list[Frame] = []
    for start in range(0, len(data), 256 * 1024):
        frames += decoder.feed(data[start : start + 256 * 1024])
    assert [frame.kind for frame in frames] == [Kind.DATA, Kind.CANCEL]
    assert frames[0].meta == b"meta"
    assert frames[0].payload == payload
    assert decoder.at_boundary


def test_the_announced_size_is_checked_before_anything_is_collected() -> None:
    limit = 1000
    exact = frame_head(Kind.DATA, 1, b"meta", limit - 4)
    assert FrameDecoder(limit).feed(exact) == []
    with pytest.raises(ProtocolError, match="1001 bytes"):
        FrameDecoder(limit).feed(frame_head(Kind.DATA, 1, b"meta", limit - 3)[:HEADER_SIZE])
    with pytest.raises(ProtocolError):
        FrameDecoder().feed(HEADER.pack(MAX_FRAME_BYTES + 1, 0, 0, Kind.DATA, 0, 0))


def test_metadata_cannot_be_longer_than_its_frame() -> None:
    assert FrameDecoder().feed(HEADER.pack(4, 0, 4, Kind.DATA, 0, 0) + b"meta")[0].meta == b"meta"
    with pytest.raises(ProtocolError, match="metadata 5 of 4 bytes"):
        FrameDecoder().feed(HEADER.pack(4, 0, 5, Kind.DATA, 0, 0))


@pytest.mark.parametrize("kind", [0, max(Kind) + 1, 255])
def test_unknown_kinds_are_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"kind {kind}"):
        FrameDecoder().feed(HEADER.pack(0, 0, 0, kind, 0, 0))


def test_other_protocols_are_refused() -> None:
    for greeting in (
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 32,
    ):
        with pytest.raises(ProtocolError):
            FrameDecoder().feed(greeting)


@given(st.lists(st.binary(max_size=80), max_size=12))
def test_any_bytes_give_frames_or_one_protocol_error(feeds: list[bytes]) -> None:
    decoder = FrameDecoder(max_frame_bytes=200)
    received = b"".join(feeds)
    frames: list[Frame] = []
    try:
        for data in feeds:
            frames += decoder.feed(data)
    except ProtocolError:
        with pytest.raises(ProtocolError):  # the verdict does not depend on how the bytes were cut
            FrameDecoder(max_frame_bytes=200).feed(received)
        return
    assert FrameDecoder(max_frame_bytes=200).feed(received) == frames
    encoded = b"".join(wire(frame) for frame in frames)
    assert received.startswith(encoded)
    assert decoder.at_boundary == (len(encoded) == len(received))


FRAMES = st.builds(
    Frame,
    st.sampled_from(list(Kind)),
    st.integers(0, 0xFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFF),
    st.binary(max_size=30),
    st.binary(max_size=60),
)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 600), max_size=8))
def test_any_frames_survive_any_cuts(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(wire(frame) for frame in frames)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = FrameDecoder()
    received: list[Frame] = []
    for start, end in itertools.pairwise(edges):
        received += decoder.feed(data[start:end])
    assert received == frames
    assert decoder.at_boundary
