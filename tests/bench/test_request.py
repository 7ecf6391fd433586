"""The bytes of the request, and what cannot be one."""

from __future__ import annotations

import pytest

from salver.bench.request import RequestError, make_request, parse_header


@pytest.mark.parametrize(
    ("url", "line", "host", "address"),
    [
        ("http://localhost:8000", "GET / HTTP/1.1", "localhost:8000", ("localhost", 8000, False)),
        ("HTTP://Example.COM/a?b=c#d", "GET /a?b=c HTTP/1.1", "example.com", ("example.com", 80, False)),
        ("https://[::1]/", "GET / HTTP/1.1", "[::1]", ("::1", 443, True)),
        ("https://[::1]:80/", "GET / HTTP/1.1", "[::1]:80", ("::1", 80, True)),
        ("http://bücher.example/ä b?ü=%20", "GET /%C3%A4%20b?%C3%BC=%20 HTTP/1.1", "xn--bcher-kva.example", None),
        ("http://h/a\tb\r\nx: y", "GET /abx:%20y HTTP/1.1", "h", None),
    ],
)
def test_where_it_goes(url: str, line: str, host: str, address: tuple[str, int, bool] | None) -> None:
    request = make_request(url, "GET")
    head = request.wire.decode().split("\r\n")
    assert head[:2] == [line, f"host: {host}"]
    assert head[-2:] == ["", ""]
    if address is not None:
        assert (request.host, request.port, request.tls) == address


def test_body_and_headers() -> None:
    request = make_request("http://h/", "post", [("Host", "other"), ("X-A", "1"), ("X-A", "2")], b"\x00\xff")
    head, _, body = request.wire.partition(b"\r\n\r\n")
    assert (request.method, request.body_bytes, body) == ("POST", 2, b"\x00\xff")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST / HTTP/1.1"
    assert lines[2:] == ["accept: */*", "Host: other", "X-A: 1", "X-A: 2", "content-length: 2"]
    assert b"content-length: 0" in make_request("http://h/", "POST", body=b"").wire


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "must begin with http:// or https://"),
        ("ftp://h/", "ftp:// is not supported"),
        ("http://", "names no host"),
        ("http://h:99999/", "is no URL"),
        ("http://[::1/", "is no URL"),
        ("http://user:secret@h/", "a URL with user and password is not taken"),
        (f"http://{'ü' * 70}/", "is no name of a host"),
    ],
)
def test_wrong_urls(url: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_request(url, "GET")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("method", ["", "GE T", "CONNECT", "G\r\n"])
def test_wrong_methods(method: str) -> None:
    with pytest.raises(RequestError, match="is no method"):
        make_request("http://h/", method)


def test_headers_as_curl_takes_them() -> None:
    assert parse_header("Authorization:  Bearer a:b ") == ("Authorization", "Bearer a:b")
    for text, said in [
        ("nothing", "has no colon"),
        ("a b: c", "is no name of a header"),
        (": c", "is no name of a header"),
        ("a: b\r\nc: d", "characters that no header may have"),
        ("Content-Length: 3", "follows from the body"),
    ]:
        with pytest.raises(RequestError, match=said):
            parse_header(text)
