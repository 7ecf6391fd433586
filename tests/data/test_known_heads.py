"""Heads that were accepted are looked up when they come again: by all of their bytes, and never more than a few."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from salver.data.http.head import HeadParser, known_heads
from salver.data.http.limits import BadRequest, HTTPLimits

LIMITS = HTTPLimits(header_fields=40)


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    known_heads(LIMITS).clear()
    yield
    known_heads(LIMITS).clear()


def head_of(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def test_a_head_that_comes_again_is_the_same_on_every_connection() -> None:
    first = HeadParser(LIMITS).parse(head_of("/a?b", "Accept: */*"))
    assert HeadParser(LIMITS).parse(head_of("/a?b", "Accept: */*")) is first
    assert first.headers == [(b"host", b"a"), (b"accept", b"*/*")]


def test_another_byte_is_another_head() -> None:
    parser = HeadParser(LIMITS)
    assert parser.parse(head_of("/a", "x: 1")).headers[1] == (b"x", b"1")
    assert parser.parse(head_of("/a", "x: 2")).headers[1] == (b"x", b"2")
    assert parser.parse(head_of("/a", "X: 1")).headers[1] == (b"x", b"1")
    assert len(known_heads(LIMITS)) == 3


def test_what_other_limits_allowed_is_read_again() -> None:
    head = head_of("/", *(f"x-{number}: 1" for number in range(20)))
    HeadParser(LIMITS).parse(head)
    with pytest.raises(BadRequest) as refused:
        HeadParser(HTTPLimits(header_fields=10)).parse(head)
    assert refused.value.status == 431


def test_a_refusal_is_not_kept() -> None:
    for _ in range(2):
        with pytest.raises(BadRequest):
            HeadParser(LIMITS).parse(b"GET / HTTP/1.1\r\n\r\n")
    assert not known_heads(LIMITS)


def test_the_heads_of_requests_with_a_body_come_again_in_one_connection() -> None:
    parser = HeadParser(LIMITS)
    heads = [head_of("/", f"Content-Length: {length}") for length in (1, 2, 1, 2)]
    assert [parser.parse(head).content_length for head in heads] == [1, 2, 1, 2]


def test_they_are_few_and_short() -> None:
    parser = HeadParser(LIMITS)
    for number in range(3000):
        parser.parse(head_of(f"/{number}"))
    parser.parse(head_of("/long", f"x: {'y' * 2000}"))
    known = known_heads(LIMITS)
    assert 0 < len(known) <= 256
    assert sum(len(head) for head in known) <= 256 * 1024
    assert head_of("/2999") in known
