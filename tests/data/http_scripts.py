"""What a client may send, as Hypothesis makes it: valid requests in a row, and then a few bytes that are not."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.bad_requests import BAD_CHUNKS, BAD_HEADS

_METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH"])
_TARGETS = st.sampled_from([b"/", b"/a/b?c=d", b"/%2f%00", b"//b", b"http://a/x", b"http://a:80", b"/;x=http://b/"])
_FIELDS = st.sampled_from(
    [
        b"Accept: */*",
        b"x-request-id: 1",
        b"X-Empty:",
        b"X-Blank:\t a , b \t",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Trailer: x",
        b"Cookie: a=b; c=\xff",
        b"Content-Type: text/plain",
    ]
)
_PIECES = st.binary(max_size=12) | st.sampled_from(
    [
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"\r\n",
        b"x" * 300,
    ]
)
_BREAKS = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b" ", b"\t", b"\0", b":", b",", b";", b"0", b"1", b"-", b"+"),
        *(b"\x0b", b"\x7f", b"\x80", b"\xff", b"0x", b"_", b"\r\n ", b" \r\n", b" :", b"HTTP/1.0", b"HTTP/1.1", b"a"),
        *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
        *(b"\r\nTransfer-Encoding:\tchunked", b"\r\nContent-Length : 3", b"Transfer-Encoding: \x0bchunked\r\n"),
        *(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"Host: b\r\n", b";a=b", b"0\r\n\r\n", b"f", b"\xef\xbb\xbf"),
    ]
) | st.binary(min_size=1, max_size=3)


@st.composite
def _chunked(draw: st.DrawFn) -> bytes:
    chunks: list[bytes] = []
    for piece in draw(st.lists(_PIECES.filter(bool), max_size=3)):
        extension = draw(st.sampled_from([b"", b"", b";x", b';x="y;z"', b";x=1;y"]))
        size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
        chunks.append(size + extension + b"\r\n" + piece + b"\r\n")
    trailers = draw(st.sampled_from([b"", b"", b"T: u\r\n", b"Content-Length: 9\r\nHost: b\r\n"]))
    return b"".join([*chunks, b"0\r\n", trailers, b"\r\n"])


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    version = draw(st.sampled_from([b"1.1"] * 5 + [b"1.0"]))
    fields = [b"Host: a", *draw(st.lists(_FIELDS, max_size=3))]
    body, framing = b"", draw(st.sampled_from(["none", "length", "chunks"] if version == b"1.1" else ["length"]))
    if framing == "length":
        body = draw(_PIECES)
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunks":
        body = draw(_chunked())
        fields.append(b"Transfer-Encoding: chunked")
    fields = draw(st.permutations(fields))
    line = b"%s %s HTTP/%s" % (draw(_METHODS), draw(_TARGETS), version)
    return b"\r\n".join([line, *fields, b"", body])


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    script = bytearray(b"".join(draw(st.lists(_request(), min_size=1, max_size=4))))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(script)))
        removed = draw(st.sampled_from([0, 0, 1, 2]))
        script[at : at + removed] = draw(_BREAKS)
    return bytes(script)


_SHORT = [data for data, _ in (*BAD_HEADS.values(), *BAD_CHUNKS.values()) if len(data) < 1000]

scripts = _mutated() | st.builds(bytes.__add__, st.sampled_from(_SHORT), _mutated())
"""All bytes of a connection."""


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """A script as the network cuts it."""
    script = draw(scripts)
    if draw(st.booleans()):
        size = draw(st.integers(1, 40))
        return [script[start : start + size] for start in range(0, len(script), size)]
    cuts = sorted(draw(st.lists(st.integers(0, len(script)), max_size=6)))
    return [script[start:end] for start, end in zip([0, *cuts], [*cuts, len(script)], strict=True)]
