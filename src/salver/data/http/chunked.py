"""One chunked request body (RFC 9112, section 7.1), decoded without I/O.

Ours and not httptools', because httptools says neither where in its input a body ended nor how long a chunk
extension was, so that neither the next head nor the framing could be held to an exact limit.

The body is read as lines and data in turn: a size line, that many bytes, an empty line, and so on; the
size 0, trailer lines, an empty line. Extensions and trailers are checked, bounded and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from salver.data.http.limits import BadRequest, HTTPLimits

_SIZE_DIGITS = 16
_split_size_line = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t -~\x80-\xff]*)?)").fullmatch
_is_trailer = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*").fullmatch


class ChunkedDecoder:
    """Decodes one body.

    Attributes:
        parts: pieces of the body decoded since the reader last emptied it.
        complete: the body and its trailers have ended.
    """

    __slots__ = (
        "_body_left",
        "_body_limit",
        "_chunk_left",
        "_framing_left",
        "_partial_line",
        "_take_line",
        "_trailers_left",
        "complete",
        "parts",
    )

    def __init__(self, limits: HTTPLimits) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self._body_limit = limits.body
        self._body_left = limits.body
        self._framing_left = limits.header_bytes
        self._trailers_left = limits.header_fields
        self._chunk_left = 0
        self._partial_line = b""
        self._take_line: Callable[[bytes], None] = self._take_size

    def feed(self, data: bytes, position: int) -> int:
        """Decode from ``position`` on.

        Returns:
            The position after what was used: the end of ``data``, or that of the body when it is complete.

        Raises:
            BadRequest: 400 for bad framing, 413 for a body over the limit, 431 for trailers over it.
        """
        size = len(data)
        while position < size and not self.complete:
            left = self._chunk_left
            if left:
                piece = data[position : position + left]
                self.parts.append(piece)
                self._chunk_left = left - len(piece)
                position += len(piece)
            else:
                position = self._read_line(data, position)
        return position

    def _read_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position) + 1
        line = self._partial_line + data[position : end or None]
        if len(line) > self._framing_left + _SIZE_DIGITS + 2:
            raise self._too_much_framing()
        if not end:
            self._partial_line = line
            return len(data)
        self._partial_line = b""
        if not line.endswith(b"\r\n"):
            raise BadRequest(400, "a line of the chunked body does not end with CR LF")
        self._take_line(line[:-2])
        return end

    def _take_size(self, line: bytes) -> None:
        match = _split_size_line(line)
        if match is None:
            raise BadRequest(400, "malformed chunk size or chunk extension")
        digits, extension = match.groups()
        self._charge(len(extension))
        size = int(digits, 16)
        if size > self._body_left:
            raise BadRequest(413, f"the body has more than {self._body_limit} bytes")
        self._body_left -= size
        self._chunk_left = size
        self._take_line = self._take_chunk_end if size else self._take_trailer

    def _take_chunk_end(self, line: bytes) -> None:
        if line:
            raise BadRequest(400, "a chunk is longer than its size")
        self._take_line = self._take_size

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self.complete = True
            return
        if not _is_trailer(line):
            raise BadRequest(400, "malformed trailer")
        self._charge(len(line) + 2)
        self._trailers_left -= 1
        if self._trailers_left < 0:
            raise BadRequest(431, "there are too many trailers")

    def _charge(self, size: int) -> None:
        self._framing_left -= size
        if self._framing_left < 0:
            raise self._too_much_framing()

    def _too_much_framing(self) -> BadRequest:
        if self._take_line == self._take_trailer:
            return BadRequest(431, "the trailers are too long")
        return BadRequest(400, "the chunk extensions are too long")
