"""HTTP/1 requests of one connection, parsed without I/O.

Bytes go into ``RequestParser.feed``; ``RequestSink`` gets, for each request in turn, one head, pieces of the
body, and its completion. The parser cuts the stream itself: the first ``CR LF CR LF`` ends a head, and the
checked head says how the body ends. So every byte belongs to one known part of one request, limits are exact,
and the callbacks do not depend on how the network split the bytes (only the pieces of a body do).

    between requests --bytes--> head --> body of known length --> complete --> between requests
                                     --> chunked body         -->          --> closed, when not keep-alive
                                     --> no body              -->

An upgrade is not taken here: its head says what was asked for, and its body and the requests after it are
read as HTTP/1.1, which is what a server that ignores Upgrade owes its client (RFC 9110, section 7.8). Who takes it
closes the parser.

The usual feed, one complete head without a body, runs through without a copy and without a buffer.
"""

from __future__ import annotations

from typing import Protocol

from salver.data.http.chunked import ChunkedDecoder
from salver.data.http.head import METHOD_BYTES, HeadParser, RequestHead, starts_with_method
from salver.data.http.limits import BadRequest, HTTPLimits

__all__ = ["BadRequest", "HTTPLimits", "RequestHead", "RequestParser", "RequestSink"]

_CR = 0x0D
_HEAD_END = b"\r\n\r\n"
_EMPTY_LINES = 4  # before a request; old clients send one after a body (RFC 9112, section 2.2)


class RequestSink(Protocol):
    """Who gets the requests. What it raises comes out of ``feed``."""

    def head_received(self, head: RequestHead) -> None:
        """A request has begun; its head is complete and checked."""
        ...

    def body_received(self, chunk: bytes) -> None:
        """The next bytes of its body, at least one."""
        ...

    def request_complete(self) -> None:
        """Its body, if any, has ended."""
        ...


class RequestParser:
    """Parses one connection.

    Args:
        sink: gets the requests, in order; pipelined ones may all come out of one ``feed``.
        limits: sizes and counts to hold. Its times are the server's to enforce.
    """

    __slots__ = (
        "_body_left",
        "_chunked",
        "_closed",
        "_empty_lines",
        "_heads",
        "_keep_alive",
        "_limits",
        "_partial",
        "_sink",
    )

    def __init__(self, sink: RequestSink, limits: HTTPLimits) -> None:
        self._sink = sink
        self._limits = limits
        self._heads = HeadParser(limits)
        self._partial = bytearray()  # the unfinished head
        self._empty_lines = 0
        self._body_left = 0
        self._chunked: ChunkedDecoder | None = None
        self._keep_alive = True
        self._closed = False

    @property
    def between_requests(self) -> bool:
        """Whether nothing of a next request has arrived, as of the last ``feed`` that did not raise."""
        return (
            not self._body_left and self._chunked is None and (not self._partial or self._partial.startswith(b"\r"))
        )

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the connection; any bytes are allowed.

        After the connection's last request (its ``keep_alive`` is False) and after a BadRequest, bytes are
        dropped unread.

        Raises:
            BadRequest: what the client sent is malformed or too large. At most once.
        """
        position = 0
        size = len(data)
        try:
            while position < size and not self._closed:
                if self._body_left:
                    position = self._read_body(data, position)
                elif self._chunked is not None:
                    position = self._read_chunks(self._chunked, data, position)
                else:
                    position = self._read_head(data, position)
        except BadRequest:
            self._closed = True
            raise

    def close(self) -> None:
        """Drop what follows unread: the connection is no longer HTTP/1.1."""
        self._closed = True

    def _read_head(self, data: bytes, position: int) -> int:
        if self._partial or data[position] == _CR:
            return self._read_on(data, position)
        end = data.find(_HEAD_END, position) + 4
        if end < 4:
            return self._read_on(data, position)
        self._begin(data[position:end])
        return end

    def _read_on(self, data: bytes, position: int) -> int:
        """Add to an unfinished head, or skip an empty line before it."""
        partial = self._partial
        seen = len(partial)
        # One byte more than the largest head, so that one that is too long shows.
        room = self._limits.request_line + 2 + self._limits.header_bytes + 1 - seen
        partial += data[position : position + room]
        if partial.startswith(b"\r\n"):
            partial.clear()
            self._empty_lines += 1
            if self._empty_lines > _EMPTY_LINES:
                raise BadRequest(400, "there are too many empty lines before the request")
            return position + 2 - seen
        if len(partial) == 1 and partial[0] == _CR:
            return position + 1
        end = partial.find(_HEAD_END, max(seen - 3, 0)) + 4
        if end < 4:
            self._check_unfinished(seen)
            return len(data)
        head = bytes(partial[:end])
        partial.clear()
        self._begin(head)
        return position + end - seen

    def _check_unfinished(self, seen: int) -> None:
        """Refuse as early as possible what can only become a bad head: another protocol, a head too large."""
        partial = self._partial
        if seen < METHOD_BYTES and not starts_with_method(partial[:METHOD_BYTES]):
            raise BadRequest(400, "the request does not start with a method")
        if partial.count(b"\n", seen) != partial.count(b"\r\n", max(seen - 1, 0)):
            raise BadRequest(400, "a line of the request head does not end with CR LF")
        line_end = partial.find(b"\r\n")
        if line_end < 0:
            line_end = len(partial) - partial.endswith(b"\r")
        self._heads.check_size(line_end, len(partial))

    def _begin(self, raw: bytes) -> None:
        head = self._heads.parse(raw)
        self._empty_lines = 0
        self._keep_alive = head.keep_alive
        if head.chunked:
            self._chunked = ChunkedDecoder(self._limits)
        elif head.content_length:
            self._body_left = head.content_length
        else:
            self._sink.head_received(head)
            self._complete()
            return
        self._sink.head_received(head)

    def _read_body(self, data: bytes, position: int) -> int:
        piece = data[position : position + self._body_left]
        self._body_left -= len(piece)
        self._sink.body_received(piece)
        if not self._body_left:
            self._complete()
        return position + len(piece)

    def _read_chunks(self, chunked: ChunkedDecoder, data: bytes, position: int) -> int:
        """Decode the feed's share of a chunked body. The sink gets it as one piece: chunks may be tiny."""
        try:
            position = chunked.feed(data, position)
        finally:
            if chunked.parts:
                self._sink.body_received(b"".join(chunked.parts))
                chunked.parts.clear()
        if chunked.complete:
            self._chunked = None
            self._complete()
        return position

    def _complete(self) -> None:
        if not self._keep_alive:
            self._closed = True
        self._sink.request_complete()
