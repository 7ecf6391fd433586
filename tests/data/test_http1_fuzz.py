"""Whatever bytes come, in whatever pieces: callbacks in order, or one BadRequest, and nothing else."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salver.data.http.head import known_heads
from salver.data.http.parser import BadRequest, HTTPLimits, RequestHead, RequestParser

LIMITS = HTTPLimits(request_line=60, header_bytes=150, header_fields=5, body=40)

# Pieces of requests, good and bad, so that random sequences get deep into the parser.
PIECES = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b HTTP/1.1\r\n",
    b"HEAD http://a/ HTTP/1.0\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"GET /",
    b" HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Host: b\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 41\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"A:" + b"b" * 100 + b"\r\n",
    b"A: ",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"3;e=f\r\nabc\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"29\r\n",
    b"\0",
    b"\xff",
    b" ",
    b":",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
]
streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=20).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=8).map(sorted)

Outcome = tuple[list[RequestHead], list[bytes], int, bool]


class Recorder:
    def __init__(self) -> None:
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.completed = 0

    def head_received(self, head: RequestHead) -> None:
        assert self.completed == len(self.heads)
        self.heads.append(head)
        self.bodies.append(b"")

    def body_received(self, chunk: bytes) -> None:
        assert chunk
        assert self.completed == len(self.heads) - 1
        self.bodies[-1] += chunk

    def request_complete(self) -> None:
        self.completed += 1
        assert self.completed == len(self.heads)


def outcome(feeds: list[bytes]) -> Outcome:
    """What came of these feeds; the bool: whether there was a BadRequest, of which there is one at most."""
    known_heads(LIMITS).clear()  # each split is read, not looked up
    recorder = Recorder()
    parser = RequestParser(recorder, LIMITS)
    refused = False
    for data in feeds:
        try:
            parser.feed(data)
        except BadRequest:
            assert not refused
            refused = True
    return recorder.heads, recorder.bodies, recorder.completed, refused


def check_promises(result: Outcome) -> None:
    heads, bodies, completed, _ = result
    for number, (head, body) in enumerate(zip(heads, bodies, strict=True)):
        assert len(head.headers) <= LIMITS.header_fields
        assert len(body) <= LIMITS.body
        assert not (head.chunked and head.content_length is not None)
        assert head.target.startswith(b"/") or (head.target, head.method) == (b"*", "OPTIONS")
        assert head.http_version == "1.0" or [name for name, _ in head.headers].count(b"host") == 1
        assert head.keep_alive or number == len(heads) - 1
        assert all(b"\r" not in value and b"\n" not in value and b"\0" not in value for _, value in head.headers)
        if number < completed and not head.chunked:
            assert len(body) == (head.content_length or 0)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stream=streams, cuts=cuts)
def test_any_sequence_of_request_pieces_in_any_split(stream: bytes, cuts: list[int]) -> None:
    whole = outcome([stream, b""])
    check_promises(whole)
    bounds = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert outcome(pieces) == whole
    assert outcome([stream[index : index + 1] for index in range(len(stream))]) == whole


@settings(max_examples=300, deadline=None)
@given(feeds=st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes(feeds: list[bytes]) -> None:
    result = outcome(feeds)
    check_promises(result)
    assert outcome([b"".join(feeds)]) == result


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_valid_stream_with_a_few_bytes_changed(data: st.DataObject) -> None:
    stream = bytearray(
        b"GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n"
        b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n"
        b"GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    for _ in range(data.draw(st.integers(0, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    whole = outcome([bytes(stream)])
    check_promises(whole)
    assert outcome([bytes(stream[index : index + 1]) for index in range(len(stream))]) == whole
