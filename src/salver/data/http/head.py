"""One request head: bytes in, ``RequestHead`` out, or a refusal.

httptools (llhttp, in its strict mode) is the tokenizer: it knows methods, header characters and line ends,
and refuses conflicting lengths. It gets one complete head at a time and never a body. What it does not check
is checked here:

* that its reading is ours: as many fields as lines, and a request line that is exactly ``method SP target SP
  version``. It would take more spaces, ``RTSP/1.1``, and whatever state an earlier request left in it;
* version, limits, target, and what single fields say (``fields``).

Two readings of the same bytes are how a request hides inside another one (request smuggling), so every doubt
is a refusal.

Clients send the same head again and again, byte for byte. Heads that were accepted lately are kept, by all of their
bytes, for all connections of the process: to look one up costs a twentieth of reading it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct

from salver.data.http.fields import FieldFacts, RequestAsks, read_fields
from salver.data.http.limits import BadRequest, HTTPLimits
from salver.data.http.target import origin_form

_SLASH = 0x2F
_VERSIONS = {b" HTTP/1.1": "1.1", b" HTTP/1.0": "1.0"}
_has_other_version = re.compile(rb".* HTTP/[0-9]+(?:\.[0-9]+)?", re.DOTALL).fullmatch
# Also used on the first bytes of an unfinished head; no method that we know is longer than 11.
starts_with_method = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?: |\Z)").match
METHOD_BYTES = 33

_MOST_KNOWN = 256
_KNOWN_BYTES = 1024
"""Of a head that is kept; with what was read from it, all of them are less than a megabyte."""


class RequestHead(Struct, frozen=True, gc=False):
    """Everything before the body of one request, checked. Requests share it: nobody changes ``headers``.

    Attributes:
        method: as sent; methods are case-sensitive.
        target: path and query in origin-form, as sent (not decoded); ``*`` for a server-wide OPTIONS.
        path: the target before ``?``, not decoded.
        query: the target after ``?``, not decoded; empty when there is none.
        headers: names in lower case, values without surrounding blanks, in the order sent.
        http_version: ``"1.1"`` or ``"1.0"``.
        keep_alive: whether the client allows another request on this connection.
        content_length: bytes of the body, None when not declared.
        chunked: whether the body is chunked; ``content_length`` is None then.
        expect_continue: the client waits for ``100 Continue`` before it sends its body.
        upgrade: the Upgrade header in lower case when the client asks to leave HTTP/1.1, else empty.
        request_id: the first ``x-request-id``, else empty. The client chose it: any header value is possible.
        host: the Host header, or the authority of an absolute-form target; empty when HTTP/1.0 has neither.
        asks: what the client asks of Salver itself, None for nothing.
    """

    method: str
    target: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    http_version: str
    keep_alive: bool
    content_length: int | None
    chunked: bool
    expect_continue: bool
    upgrade: bytes
    request_id: bytes
    host: bytes
    asks: RequestAsks | None = None


class HeadParser:
    """Parses the request heads of one connection. Not to be used again after it raised."""

    __slots__ = ("_headers", "_known", "_limits", "_parser", "_target")

    def __init__(self, limits: HTTPLimits) -> None:
        self._limits = limits
        self._known = known_heads(limits)
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._parser: HttpRequestParser | None = None

    def parse(self, head: bytes) -> RequestHead:
        """Read one head.

        Args:
            head: from the request line to the first empty line, which is included.

        Raises:
            BadRequest: 400, 413, 414, 417, 431, 501 or 505.
        """
        known = self._known.get(head)
        return self._parse_new(head) if known is None else known

    def _parse_new(self, head: bytes) -> RequestHead:
        line_end = head.find(b"\r\n")
        field_count = head.count(b"\r\n") - 2
        self.check_size(line_end, len(head), field_count)
        version = _VERSIONS.get(head[line_end - 9 : line_end])
        if version is None:
            raise _refused_version(head[:line_end])
        method = self._read(head, line_end, field_count)
        try:
            facts = read_fields(self._headers, version == "1.0", self._limits.body)
            if facts.content_length or facts.chunked:
                self._parser = None  # it would now wait for the body
            read = self._assemble(method, version, facts)
        except BadRequest as error:
            error.headers = self._headers
            raise
        if len(head) <= _KNOWN_BYTES:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[head] = read
        return read

    def check_size(self, line_end: int, size: int, field_count: int = 0) -> None:
        """Refuse a head that is too large, or an unfinished one that already is.

        Args:
            line_end: bytes of the request line, without its line end.
            size: bytes of the head so far.
            field_count: field lines so far.

        Raises:
            BadRequest: 414 or 431.
        """
        limits = self._limits
        if line_end > limits.request_line:
            raise BadRequest(414, f"the request line has more than {limits.request_line} bytes")
        if size - line_end - 2 > limits.header_bytes:
            raise BadRequest(431, f"the headers have more than {limits.header_bytes} bytes")
        if field_count > limits.header_fields:
            raise BadRequest(431, f"there are more than {limits.header_fields} headers")

    # The two callbacks of httptools. Both get whole items, since it is fed whole heads.

    def on_url(self, url: bytes) -> None:
        self._target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def _read(self, head: bytes, line_end: int, field_count: int) -> bytes:
        """Tokenize; gives the method, leaves target and headers in their slots."""
        self._target = b""
        self._headers = []
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade:  # raised after the whole head; this connection stays with HTTP/1.1
            self._parser = None
        except HttpParserInvalidMethodError as error:
            if starts_with_method(head):
                raise BadRequest(501, "the request method is not known here") from error
            raise BadRequest(400, "the request does not start with a method") from error
        except HttpParserError as error:
            raise BadRequest(400, f"malformed request: {error}") from error
        method = parser.get_method()
        if method == b"CONNECT":
            raise BadRequest(501, "CONNECT is for forward proxies")
        target = self._target
        if len(self._headers) != field_count or len(method) + len(target) + 10 != line_end:
            raise BadRequest(400, "malformed request line or header line")
        if not target or b"#" in target:
            raise BadRequest(400, "the request target is empty or has a fragment")
        return method

    def _assemble(self, method: bytes, version: str, facts: FieldFacts) -> RequestHead:
        target, host = self._target, facts.host
        if target[0] != _SLASH:
            target, host = origin_form(method, target, host)
        path, _, query = target.partition(b"?")
        return RequestHead(
            method.decode("ascii"),
            target,
            path,
            query,
            self._headers,
            version,
            facts.keep_alive,
            facts.content_length,
            facts.chunked,
            facts.expect_continue,
            facts.upgrade,
            facts.request_id,
            host or b"",
            facts.asks,
        )


@lru_cache(maxsize=8)
def known_heads(limits: HTTPLimits) -> dict[bytes, RequestHead]:
    """The heads that were accepted under these limits lately."""
    return {}


def _refused_version(line: bytes) -> BadRequest:
    if _has_other_version(line):
        return BadRequest(505, "the HTTP version is neither 1.0 nor 1.1")
    return BadRequest(400, "the request line does not end with an HTTP version")
