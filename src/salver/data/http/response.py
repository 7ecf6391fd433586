"""What leaves in an HTTP/1.1 response head: status lines, and the application's headers made safe.

Applications choose header names and values, at times from what a client sent. A line break in one would end
the header, or the whole head, early (response splitting), so nothing goes out unchecked. How the body ends
and whether the connection stays is the server's business: the application's own words on that are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from salver.errors import ServeException

_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROLS = bytes(code for code in range(0x20) if code != 0x09) + b"\x7f"
_DROPPED = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade content-length".split()
)

_MAX_PREFIXES = 1024
_MAX_CACHED_NAME = 64
_prefixes: dict[bytes, bytes] = {}
"""Checked names as sent, each with what starts its line; empty for a name that is dropped."""

STATUS_LINES: dict[int, bytes] = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}
"""The status line, with its line end, of every status that has a name."""


BODYLESS = frozenset({204, 304})
"""Statuses of responses that have no body, whatever the application says."""


class InvalidHeader(ServeException, ValueError):
    """The application set a response header that cannot be sent; the message names the header."""


def status_line(code: int) -> bytes:
    """The status line, with its line end. A code without a name gets an empty reason, as RFC 9112 allows.

    Raises:
        ValueError: the code is not within 100 to 599.
    """
    line = STATUS_LINES.get(code)
    if line is not None:
        return line
    if not 100 <= code <= 599:
        raise ValueError(f"{code} is not an HTTP status: 100 to 599 are allowed")
    return b"HTTP/1.1 %d \r\n" % code


class StreamFraming(NamedTuple):
    """How a streamed body shows its end.

    Attributes:
        line: the header line that says so, empty for none.
        chunked: each piece goes out as a chunk.
        ends_with_connection: only the end of the connection ends the body (HTTP/1.0 without a length).
    """

    line: bytes
    chunked: bool
    ends_with_connection: bool


def stream_framing(status: int, declared: int, http_version: str) -> StreamFraming:
    """Framing for a body that is not complete yet; ``declared`` is its content-length, -1 when unknown."""
    if status in BODYLESS:
        return StreamFraming(b"", chunked=False, ends_with_connection=False)
    if declared >= 0:
        return StreamFraming(b"content-length: %d\r\n" % declared, chunked=False, ends_with_connection=False)
    if http_version == "1.1":
        return StreamFraming(b"transfer-encoding: chunked\r\n", chunked=True, ends_with_connection=False)
    return StreamFraming(b"", chunked=False, ends_with_connection=True)


def response_head(
    status: int,
    block: bytes,
    framing: bytes,
    date_line: bytes,
    request_id_line: bytes,
    http_version: str,
    *,
    close: bool,
) -> bytes:
    """Everything up to the body. A ``date`` or ``x-request-id`` that the application set stays the only one."""
    connection = b""
    if close:
        connection = b"connection: close\r\n"
    elif http_version == "1.0":
        connection = b"connection: keep-alive\r\n"
    begin, has_request_id, has_date = (_begin_known if len(block) <= _KNOWN_BYTES else _begin)(status, block)
    if has_request_id:
        request_id_line = b""
    if has_date:
        date_line = b""
    return b"".join((begin, framing, date_line, request_id_line, connection, b"\r\n"))


def _begin(status: int, block: bytes) -> tuple[bytes, bool, bool]:
    """Status line and the application's lines; whether these have an ``x-request-id``, and a ``date``."""
    names = b"\n" + block.lower()
    return status_line(status) + block, b"\nx-request-id:" in names, b"\ndate:" in names


_KNOWN_BYTES = 512
_begin_known = lru_cache(maxsize=256)(_begin)
"""Most answers of an application begin alike."""


def encode_header_block(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None]:
    """Check and join response headers.

    Headers of the connection and of the body's framing (connection, content-length, keep-alive,
    proxy-connection, te, trailer, transfer-encoding, upgrade) are left out.

    Args:
        headers: names and values; the order and the case of names are kept.

    Returns:
        Lines ``name: value`` with line ends, and the Content-Length that the application declared, or None.

    Raises:
        InvalidHeader: a name is not a token, a value has a control character other than TAB, or
            Content-Length is not one number.
    """
    pairs = headers if isinstance(headers, list | tuple) else list(headers)
    parts: list[bytes] = []
    declared: int | None = None
    for name, value in pairs:
        prefix = _prefixes.get(name)
        if prefix is None:
            prefix = _check_name(name)
        if prefix:
            parts += (prefix, value, b"\r\n")
        elif name.lower() == b"content-length":
            declared = _content_length(value, declared)
    block = b"".join(parts)
    # One pass over the whole instead of one per value: only our own line ends may be there.
    if len(block) - len(block.translate(None, _CONTROLS)) != len(parts) // 3 * 2:
        raise _unsafe_value(pairs)
    return block, declared


def _check_name(name: bytes) -> bytes:
    if not _is_token(name):
        raise InvalidHeader(f"response header {name!r}: its name has characters that HTTP does not allow there")
    prefix = b"" if name.lower() in _DROPPED else name + b": "
    if len(name) <= _MAX_CACHED_NAME:  # an application that makes up names must not fill the memory
        if len(_prefixes) >= _MAX_PREFIXES:
            _prefixes.clear()
        _prefixes[name] = prefix
    return prefix


def _content_length(value: bytes, declared: int | None) -> int:
    if not value.isdigit() or len(value) > 19 or declared not in (None, int(value)):
        raise InvalidHeader(f"response header content-length: {value!r} is not one decimal number")
    return int(value)


def _unsafe_value(pairs: Iterable[tuple[bytes, bytes]]) -> InvalidHeader:
    unsafe = [name for name, value in pairs if len(value.translate(None, _CONTROLS)) != len(value)]
    names = b", ".join(unsafe).decode("ascii")
    return InvalidHeader(
        f"response header {names}: its value has a control character (a line break?) and could forge headers"
    )
