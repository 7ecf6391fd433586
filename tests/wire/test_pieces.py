"""Pieces of a streamed answer that share a frame: they come out as they went in, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import ProtocolError
from salver.wire.pieces import PIECE, split_pieces


@given(st.lists(st.binary(max_size=40)))
def test_pieces_come_out_as_they_went_in(pieces: list[bytes]) -> None:
    payload = b"".join(PIECE % (len(piece), piece) for piece in pieces)
    assert split_pieces(payload) == pieces
    assert split_pieces(memoryview(payload)) == pieces


@pytest.mark.parametrize(
    "payload",
    [b"3", b"\r\n", b"x\r\nabc\r\n", b"3\r\nab", b"3\r\nabc", b"3\r\nabcd\r\n", b"-2\r\n", b"0\r\n\r\n-6\r\n"],
)
def test_what_is_not_whole_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        split_pieces(payload)


@given(st.binary())
def test_any_bytes_are_pieces_or_an_error(payload: bytes) -> None:
    try:
        pieces = split_pieces(payload)
    except ProtocolError:
        return
    assert sum(map(len, pieces)) <= len(payload)
