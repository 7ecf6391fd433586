"""Several pieces of one streamed HTTP answer in one frame, each as HTTP writes a chunk: its size in hex, the piece.

A client that reads chunks gets the pieces that the application sent, one by one, and the proxy passes on the whole
payload without a look at what is in it. Where the answer is not chunked (HTTP/1.0, a test client), it is taken apart.
"""

from __future__ import annotations

from salver.errors import ProtocolError
from salver.wire.frames import Buffer

PIECE = b"%x\r\n%s\r\n"
"""Formats a piece from its length and itself."""


def split_pieces(payload: Buffer) -> list[bytes]:
    """The pieces of a payload. Raises ProtocolError when it is not made of whole pieces."""
    data, offset = bytes(payload), 0
    pieces: list[bytes] = []
    while offset < len(data):
        begin = data.find(b"\r\n", offset) + 2
        try:
            size = int(data[offset : begin - 2], 16)
        except ValueError:
            raise ProtocolError("a piece of an answer without its length") from None
        end = begin + size
        if begin < 2 or size < 0 or data[end : end + 2] != b"\r\n":
            raise ProtocolError("a piece of an answer that is not whole")
        pieces.append(data[begin:end])
        offset = end + 2
    return pieces
