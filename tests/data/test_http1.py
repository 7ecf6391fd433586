"""The HTTP/1 request parser: what it accepts, what it refuses and with which status, where its limits are."""

from __future__ import annotations

import pytest

from harness.bad_requests import BAD_CHUNKS, BAD_HEADS, CHUNKED, GET, POST
from salver.data.http.fields import read_fields
from salver.data.http.parser import BadRequest, HTTPLimits, RequestHead, RequestParser

LIMITS = HTTPLimits()


class Recorder:
    """A sink that keeps what it got: heads, bodies as far as they came, and which requests completed."""

    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.completed = 0

    def head_received(self, head: RequestHead) -> None:
        assert self.completed == len(self.heads), "a head before the previous request was complete"
        self.heads.append(head)
        self.bodies.append(b"")

    def body_received(self, chunk: bytes) -> None:
        assert chunk
        assert self.completed == len(self.heads) - 1, "a body outside of a request"
        self.bodies[-1] += chunk

    def request_complete(self) -> None:
        self.completed += 1
        assert self.completed == len(self.heads)


def parse(*feeds: bytes, limits: HTTPLimits = LIMITS) -> tuple[Recorder, RequestParser]:
    recorder = Recorder()
    parser = RequestParser(recorder, limits)
    for data in feeds:
        parser.feed(data)
    return recorder, parser


def parse_one(data: bytes, limits: HTTPLimits = LIMITS) -> tuple[RequestHead, bytes]:
    recorder, parser = parse(data, limits=limits)
    assert recorder.completed == 1
    assert parser.between_requests
    return recorder.heads[0], recorder.bodies[0]


def refusal(*feeds: bytes, limits: HTTPLimits = LIMITS) -> int:
    """The status with which the last of the feeds is refused."""
    recorder = Recorder()
    parser = RequestParser(recorder, limits)
    for data in feeds[:-1]:
        parser.feed(data)
    with pytest.raises(BadRequest) as caught:
        parser.feed(feeds[-1])
    assert caught.value.message
    seen = (list(recorder.heads), list(recorder.bodies), recorder.completed)
    parser.feed(GET + b"\r\n")  # dropped
    assert (recorder.heads, recorder.bodies, recorder.completed) == seen
    return caught.value.status


# --- what must be refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "status"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_refused_before_anything_is_dispatched(data: bytes, status: int) -> None:
    assert refusal(data) == status
    recorder, _ = parse(GET + b"\r\n")
    with pytest.raises(BadRequest):
        RequestParser(recorder, LIMITS).feed(data)
    assert recorder.completed == 1


@pytest.mark.parametrize(("data", "status"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_refused_behind_a_good_one(data: bytes, status: int) -> None:
    assert refusal(GET + b"\r\n", data) == status


@pytest.mark.parametrize(("data", "status"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_bad_chunks_are_refused(data: bytes, status: int) -> None:
    assert refusal(CHUNKED, data) == status
    assert refusal(CHUNKED + data) == status


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"\n", b"\rG", b"<html>", b"x" * 40, b"\0"])
def test_what_cannot_become_a_request_is_refused_before_its_head_ends(data: bytes) -> None:
    assert refusal(data) == 400


@pytest.mark.parametrize(
    "fields",
    [
        [(b"host", b"a"), (b"content-length", b"1"), (b"content-length", b"1")],
        [(b"host", b"a"), (b"content-length", b"+1")],
        [(b"host", b"a"), (b"content-length", b"")],
        [(b"host", b"a"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"a"), (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_our_own_rules_on_framing_do_not_rely_on_those_of_httptools(
    fields: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(BadRequest) as caught:
        read_fields(fields, http_1_0=False, body_limit=10)
    assert caught.value.status == 400


def every_byte_but(accepted: bytes) -> list[int]:
    return [code for code in range(256) if code not in accepted]


def test_every_byte_that_is_not_a_token_character_is_refused_in_a_name() -> None:
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for code in every_byte_but(token + b":"):
        assert refusal(GET + b"A%cB: c\r\n\r\n" % code) == 400, code
    for code in token:
        head, _ = parse_one(GET + b"A%cB: c\r\n\r\n" % code)
        assert head.headers[1] == ((b"A%cB" % code).lower(), b"c")


def test_every_control_character_is_refused_in_a_value() -> None:
    allowed = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
    for code in every_byte_but(allowed):
        assert refusal(GET + b"A: b%cc\r\n\r\n" % code) == 400, code
    for code in allowed:
        head, _ = parse_one(GET + b"A: b%cc\r\n\r\n" % code)
        assert head.headers[1][1] == b"b%cc" % code


# --- what must be accepted -----------------------------------------------------------------------------


def test_a_head_has_everything_that_was_sent() -> None:
    head, body = parse_one(
        b"POST /a%20b/?x=1&y=? HTTP/1.1\r\nHost: Example.com:8000\r\nX-Request-Id: r1\r\nAccept:  a, b \t\r\n"
        b"Empty:\r\nx-request-id: r2\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert body == b"hello"
    assert head == RequestHead(
        method="POST",
        target=b"/a%20b/?x=1&y=?",
        path=b"/a%20b/",
        query=b"x=1&y=?",
        headers=[
            (b"host", b"Example.com:8000"),
            (b"x-request-id", b"r1"),
            (b"accept", b"a, b"),
            (b"empty", b""),
            (b"x-request-id", b"r2"),
            (b"content-length", b"5"),
        ],
        http_version="1.1",
        keep_alive=True,
        content_length=5,
        chunked=False,
        expect_continue=False,
        upgrade=b"",
        request_id=b"r1",
        host=b"Example.com:8000",
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_methods(method: str) -> None:
    head, body = parse_one(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (head.method, head.content_length, body) == (method, None, b"")


def test_a_head_request_may_have_a_body_like_any_other() -> None:
    recorder, _ = parse(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab" + GET + b"\r\n")
    assert [head.method for head in recorder.heads] == ["HEAD", "GET"]
    assert recorder.bodies == [b"ab", b""]


@pytest.mark.parametrize(
    "host", [b"", b"a", b"a.b-c_d:80", b"127.0.0.1:8000", b"[::1]", b"[::1]:8000", b"[fe80::1%25eth0]", b"a:"]
)
def test_hosts(host: bytes) -> None:
    head, _ = parse_one(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
    assert head.host == host


@pytest.mark.parametrize(
    ("method", "target", "host", "origin_form"),
    [
        (b"GET", b"http://a/b?c=d", b"a", b"/b?c=d"),
        (b"GET", b"http://A:80/", b"a", b"/"),
        (b"GET", b"http://a", b"A:80", b"/"),
        (b"GET", b"http://a:/", b"a", b"/"),
        (b"GET", b"HTTPS://a:443?x", b"a", b"/?x"),
        (b"GET", b"https://a:80/", b"a:80", b"/"),
        (b"GET", b"http://[::1]:80/x//y", b"[::1]", b"/x//y"),
        (b"GET", b"//a/b", b"c", b"//a/b"),
        (b"OPTIONS", b"*", b"a", b"*"),
        (b"OPTIONS", b"http://a", b"a", b"*"),
        (b"OPTIONS", b"http://a/", b"a", b"/"),
    ],
)
def test_targets_end_as_origin_form(method: bytes, target: bytes, host: bytes, origin_form: bytes) -> None:
    head, _ = parse_one(b"%s %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (method, target, host))
    assert head.target == origin_form
    assert head.path + (b"?" + head.query if head.query else b"") == origin_form


def test_http_1_0_needs_no_host() -> None:
    head, _ = parse_one(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.http_version, head.host, head.headers) == ("1.0", b"", [])
    head, _ = parse_one(b"GET http://a/x HTTP/1.0\r\n\r\n")
    assert (head.target, head.host) == (b"/x", b"a")


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: TE , Close\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
@pytest.mark.parametrize("body", [b"", b"xyz"])
def test_keep_alive(version: bytes, connection: bytes, keep_alive: bool, body: bytes) -> None:
    framing = b"Content-Length: %d\r\n\r\n" % len(body) + body
    request = b"POST / HTTP/%s\r\nHost: a\r\n" % version + connection + framing
    recorder, _ = parse(request, request)
    assert recorder.heads[0].keep_alive is keep_alive
    assert recorder.bodies == [body] * (2 if keep_alive else 1), "after the last request, bytes are dropped"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 3\r\n", True),
        (b"Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", True),
        (b"Expect: 100-continue\r\nContent-Length: 0\r\n", False),
        (b"Expect: 100-continue\r\n", False),
        (b"Content-Length: 3\r\n", False),
    ],
)
def test_expect_continue(fields: bytes, expected: bool) -> None:
    recorder, _ = parse(POST + fields + b"\r\n")
    assert recorder.heads[0].expect_continue is expected
    recorder, _ = parse(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert recorder.heads[0].expect_continue is False


def test_chunks_extensions_and_trailers() -> None:
    head, body = parse_one(
        CHUNKED + b'3;name="value"\r\nabc\r\n0000A\r\n0123456789\r\n000;last\r\nDigest: x\r\nEmpty:\r\n\r\n'
    )
    assert head.chunked
    assert head.content_length is None
    assert body == b"abc0123456789"
    assert [name for name, _ in head.headers] == [b"host", b"transfer-encoding"], "trailers are dropped"


def test_tiny_chunks_come_as_one_piece_per_feed() -> None:
    class Counter(Recorder):
        pieces = 0

        def body_received(self, chunk: bytes) -> None:
            self.pieces += 1
            super().body_received(chunk)

    counter = Counter()
    RequestParser(counter, LIMITS).feed(CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
    assert (counter.pieces, counter.bodies) == (1, [b"x" * 1000])


# --- upgrades ------------------------------------------------------------------------------------------

WEBSOCKET = GET + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"


def test_after_an_upgrade_request_the_connection_stays_with_http() -> None:
    recorder, parser = parse(WEBSOCKET + b"\r\n" + GET + b"\r\n")
    assert [head.upgrade for head in recorder.heads] == [b"websocket", b""]
    assert parser.between_requests


def test_the_body_of_an_upgrade_request_is_its_body() -> None:
    """llhttp would hand these bytes to the new protocol; as the next request they would smuggle one in."""
    hidden = GET + b"\r\n"
    h2c = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: x\r\n"
    for framing in (b"Content-Length: %d\r\n\r\n" % len(hidden), b"Transfer-Encoding: chunked\r\n\r\n"):
        body = hidden if b"Length" in framing else b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)
        recorder, _ = parse(h2c + framing + body + GET + b"A: next\r\n\r\n")
        assert [head.upgrade for head in recorder.heads] == [b"h2c, x", b""]
        assert recorder.bodies == [hidden, b""]
        assert recorder.heads[1].headers[1] == (b"a", b"next")


def test_an_upgrade_header_alone_asks_for_nothing() -> None:
    for request in (GET + b"Upgrade: h2c\r\n\r\n", WEBSOCKET.replace(b"1.1", b"1.0", 1) + b"\r\n"):
        head, _ = parse_one(request)
        assert head.upgrade == b""
        assert head.keep_alive


# --- limits --------------------------------------------------------------------------------------------

SMALL = HTTPLimits(request_line=30, header_bytes=40, header_fields=3, body=10)


def padded(request_line: int, header_bytes: int) -> bytes:
    """A request whose request line and header section have exactly these sizes."""
    line = b"GET /%s HTTP/1.1\r\n" % (b"a" * (request_line - 14))
    return line + b"Host: a\r\nB: %s\r\n\r\n" % (b"b" * (header_bytes - 16))


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_request_line_and_header_limits_are_exact(piece: int) -> None:
    recorder, _ = parse(*in_pieces(padded(30, 40) * 3, piece), limits=SMALL)
    assert recorder.completed == 3
    for sizes, status in (((31, 40), 414), ((30, 41), 431)):
        with pytest.raises(BadRequest) as caught:
            parse(*in_pieces(padded(*sizes), piece), limits=SMALL)
        assert caught.value.status == status


def test_the_field_limit_is_exact() -> None:
    parse_one(GET + b"B: c\r\n" * 2 + b"\r\n", SMALL)
    assert refusal(GET + b"B: c\r\n" * 3 + b"\r\n", limits=SMALL) == 431


def test_the_body_limit_is_exact() -> None:
    _, body = parse_one(POST + b"Content-Length: 10\r\n\r\n0123456789", HTTPLimits(body=10))
    assert body == b"0123456789"
    assert refusal(POST + b"Content-Length: 11\r\n\r\n", limits=HTTPLimits(body=10)) == 413
    _, body = parse_one(CHUNKED + b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n", HTTPLimits(body=10))
    assert body == b"0123456789"
    assert refusal(CHUNKED + b"4\r\n0123\r\n", b"7\r\n", limits=HTTPLimits(body=10)) == 413


@pytest.mark.parametrize(
    ("start", "endless", "status", "at_most"),
    [
        (b"GET /", b"a", 414, 8192 + 2),
        (GET, b"b", 431, 8192 + 32768 + 4),
        (GET + b"B: ", b"c", 431, 8192 + 32768 + 4),
        (GET + b"B:", b" ", 431, 8192 + 32768 + 4),
        (GET, b"B: c\r\n", 431, 8192 + 32768 + 4),
        (CHUNKED, b"0", 400, 32768 + 1000),
        (CHUNKED + b"1;", b"e", 400, 32768 + 1000),
        (CHUNKED + b"0\r\n", b"t", 431, 32768 + 1000),
    ],
)
def test_what_never_ends_is_stopped_at_the_limit(start: bytes, endless: bytes, status: int, at_most: int) -> None:
    parser = RequestParser(Recorder(), LIMITS)
    parser.feed(start)
    sent = 0
    with pytest.raises(BadRequest) as caught:
        while True:
            sent += len(endless)
            assert sent <= at_most
            parser.feed(endless)
    assert caught.value.status == status


def test_a_body_counts_neither_as_head_nor_against_the_next_request() -> None:
    body = b"x" * 100_000
    request = POST + b"Content-Length: 100000\r\n\r\n" + body
    recorder, _ = parse(*in_pieces(request * 2 + padded(8192, 32768), 4096))
    assert recorder.bodies == [body, body, b""]


# --- the network's splitting ---------------------------------------------------------------------------

STREAM = (
    b"\r\n"
    + (GET + b"Accept: */*\r\n\r\n")
    + (POST + b"Content-Length: 4\r\n\r\nab\r\n")
    + b"\r\n"
    + (CHUNKED + b"2;x\r\nab\r\n1\r\nc\r\n0\r\nT: u\r\n\r\n")
    + (WEBSOCKET + b"\r\n")
    + b"GET http://a/b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    + (GET + b"Connection: close\r\n\r\n")
    + b"dropped"
)


def test_every_split_gives_the_same_requests() -> None:
    whole, _ = parse(STREAM)
    assert whole.completed == 6
    assert whole.bodies == [b"", b"ab\r\n", b"abc", b"", b"", b""]
    for cut in range(1, len(STREAM)):
        split, _ = parse(STREAM[:cut], STREAM[cut:])
        assert (split.heads, split.bodies, split.completed) == (whole.heads, whole.bodies, 6)
    single, _ = parse(*in_pieces(STREAM, 1))
    assert (single.heads, single.bodies, single.completed) == (whole.heads, whole.bodies, 6)


@pytest.mark.parametrize(("data", "status"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_no_split_makes_a_bad_head_good(data: bytes, status: int) -> None:
    cuts = range(1, len(data)) if len(data) < 500 else (1, 20, 100, len(data) - 1)
    for cut in cuts:
        with pytest.raises(BadRequest):
            parse(data[:cut], data[cut:])


def test_an_empty_line_before_each_request_is_skipped() -> None:
    recorder, _ = parse((b"\r\n" + POST + b"Content-Length: 1\r\n\r\nx") * 10)
    assert recorder.bodies == [b"x"] * 10


def test_pipelined_requests_come_in_order() -> None:
    requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1000)]
    recorder, _ = parse(b"".join(requests))
    assert [head.path for head in recorder.heads] == [b"/%d" % number for number in range(1000)]


def test_between_requests() -> None:
    _, parser = parse()
    assert parser.between_requests
    steps = [
        (b"", True),
        (b"\r", True),
        (b"\n", True),
        (b"P", False),
        (POST[1:], False),
        (b"Content-Length: 2\r\n\r\n", False),
        (b"x", False),
        (b"y", True),
        (CHUNKED, False),
        (b"0\r\n", False),
        (b"\r\n", True),
    ]
    for data, expected in steps:
        parser.feed(data)
        assert parser.between_requests is expected, data


def test_an_error_of_the_sink_comes_out() -> None:
    class Failing(Recorder):
        def head_received(self, head: RequestHead) -> None:
            raise RuntimeError(head.method)

    with pytest.raises(RuntimeError, match="GET"):
        RequestParser(Failing(), LIMITS).feed(GET + b"\r\n")
