"""Response heads: no header or status of an application can change the framing or forge another header."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.data.http.response import STATUS_LINES, InvalidHeader, encode_header_block, status_line

Headers = list[tuple[bytes, bytes]]


def test_headers_keep_their_order_and_case() -> None:
    headers = [
        (b"Content-Type", b"text/plain"),
        (b"set-cookie", b"a=b"),
        (b"set-cookie", b""),
        (b"X", b"\tc\xff"),
    ]
    expected = b"Content-Type: text/plain\r\nset-cookie: a=b\r\nset-cookie: \r\nX: \tc\xff\r\n"
    for _ in range(2):  # names are checked, then remembered
        assert encode_header_block(headers) == (expected, None)
        assert encode_header_block(iter(headers)) == (expected, None)
    assert encode_header_block([]) == (b"", None)


@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"keep-alive",
        b"proxy-connection",
        b"TE",
        b"trailer",
        b"Transfer-Encoding",
        b"upgrade",
    ],
)
def test_headers_of_the_connection_are_dropped(name: bytes) -> None:
    for _ in range(2):
        assert encode_header_block([(b"a", b"b"), (name, b"x")]) == (b"a: b\r\n", None)


def test_the_declared_length_comes_apart() -> None:
    assert encode_header_block([(b"Content-Length", b"12"), (b"a", b"b")]) == (b"a: b\r\n", 12)
    assert encode_header_block([(b"content-length", b"0"), (b"Content-Length", b"0")]) == (b"", 0)


@pytest.mark.parametrize("values", [[b""], [b"-1"], [b"+1"], [b"1, 1"], [b"x"], [b"1", b"2"], [b"9" * 5000]])
def test_a_bad_declared_length_is_refused(values: list[bytes]) -> None:
    with pytest.raises(InvalidHeader, match="content-length"):
        encode_header_block([(b"content-length", value) for value in values])


@pytest.mark.parametrize("code", [*range(9), *range(10, 32), 127])
def test_control_characters_in_values_are_refused(code: int) -> None:
    for value in (b"a%cb" % code, b"%c" % code, b"a\r\nb: c%c" % code):
        with pytest.raises(InvalidHeader, match="x-bad"):
            encode_header_block([(b"x-good", b"a"), (b"x-bad", value), (b"x-good", b"b")])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"a\n", b"a\0", b"\xc3\xa9", b"a\t", b"(a)"])
def test_names_that_are_no_tokens_are_refused(name: bytes) -> None:
    for _ in range(2):
        with pytest.raises(InvalidHeader, match="response header"):
            encode_header_block([(name, b"x")])


def test_names_are_remembered_in_bounded_memory() -> None:
    for number in range(3000):
        assert encode_header_block([(b"x-%d" % number, b"a")])[0] == b"x-%d: a\r\n" % number
    from salver.data.http.response import _prefixes  # pyright: ignore[reportPrivateUsage]

    assert len(_prefixes) <= 1024


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=4))
def test_every_block_has_one_line_per_header(headers: Headers) -> None:
    try:
        block, declared = encode_header_block(headers)
    except InvalidHeader:
        return
    assert declared is None
    assert block.count(b"\n") == block.count(b"\r") == block.count(b"\r\n") == len(headers)
    lines = block.split(b"\r\n")[:-1]
    assert [tuple(line.split(b": ", 1)) for line in lines] == headers


def test_status_lines() -> None:
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(503) == b"HTTP/1.1 503 Service Unavailable\r\n"
    assert status_line(499) == b"HTTP/1.1 499 \r\n"
    assert set(STATUS_LINES) == {status.value for status in HTTPStatus}
    for code in range(100, 600):
        assert status_line(code).startswith(b"HTTP/1.1 %d " % code)
        assert status_line(code).endswith(b"\r\n")


@pytest.mark.parametrize("code", [-1, 0, 99, 600, 1000])
def test_codes_that_are_no_status_are_refused(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        status_line(code)
