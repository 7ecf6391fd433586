"""The one request that is sent again and again: where to, and its bytes, made once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from salver import __version__

_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_field_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch

_PORTS = {"http": 80, "https": 443}
_KEPT = "/?:@!$&'()*+,;=-._~%[]"
"""Characters that a request target keeps as they are; all others are percent-encoded, as browsers do."""

_OURS = frozenset({"content-length", "transfer-encoding"})


class RequestError(ValueError):
    """The request that was asked for cannot be sent; the message says what is wrong with it."""


class Request(NamedTuple):
    """Attributes:
    url: as it was given.
    method: in capitals.
    host: a name, or an IP address without brackets.
    port: TCP.
    tls: whether it is HTTPS.
    wire: the whole request, head and body.
    body_bytes: how much of that is the body.
    """

    url: str
    method: str
    host: str
    port: int
    tls: bool
    wire: bytes
    body_bytes: int


def make_request(
    url: str, method: str, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> Request:
    """The request that these make; ``headers`` replace those that would be sent by default.

    Raises:
        RequestError: something in it is not possible in HTTP/1.1, or would not mean what it says.
    """
    host, port, tls, authority, target = _place(url)
    if not _is_token(method) or method.upper() == "CONNECT":
        raise RequestError(f"{method!r} is no method of a request to a server.")
    fields = {"host": authority, "user-agent": f"salver-bench/{__version__}", "accept": "*/*"}
    given = [(name, value) for name, value in headers if _checked(name, value)]
    for name, _ in given:
        fields.pop(name.lower(), None)
    lines = [*fields.items(), *given]
    if body is not None:
        lines.append(("content-length", str(len(body))))
    head = f"{method.upper()} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
    wire = head.encode("latin-1") + b"\r\n" + (body or b"")
    return Request(url, method.upper(), host, port, tls, wire, len(body or b""))


def parse_header(text: str) -> tuple[str, str]:
    """``Name: value`` as curl takes it. Raises RequestError."""
    name, colon, value = text.partition(":")
    if not colon:
        raise RequestError(f"{text!r} has no colon: a header is 'name: value'.")
    value = value.strip(" \t")
    _checked(name, value)
    return name, value


def _checked(name: str, value: str) -> bool:
    if not _is_token(name):
        raise RequestError(f"{name!r} is no name of a header.")
    if not _is_field_value(value):
        raise RequestError(f"the value of header {name!r} has characters that no header may have.")
    if name.lower() in _OURS:
        raise RequestError(f"header {name!r} follows from the body and cannot be given.")
    return True


def _place(url: str) -> tuple[str, int, bool, str, str]:
    """Host, port, whether TLS, authority and request target of ``url``."""
    if "://" not in url:
        raise RequestError(f"{url!r} is no URL: it must begin with http:// or https://.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RequestError(f"{url!r} is no URL: {error}.") from None
    if parts.scheme not in _PORTS:
        raise RequestError(f"{url!r}: {parts.scheme}:// is not supported; http:// and https:// are.")
    if not parts.hostname:
        raise RequestError(f"{url!r} names no host.")
    if parts.username is not None or parts.password is not None:
        raise RequestError("a URL with user and password is not taken; send them with --header 'authorization: …'.")
    try:
        host = parts.hostname.encode("idna").decode() if ":" not in parts.hostname else parts.hostname
    except UnicodeError:
        raise RequestError(f"{url!r}: {parts.hostname!r} is no name of a host.") from None
    written = f"[{host}]" if ":" in host else host
    authority = written if port in {None, _PORTS[parts.scheme]} else f"{written}:{port}"
    target = quote(parts.path or "/", safe=_KEPT) + (f"?{quote(parts.query, safe=_KEPT)}" if parts.query else "")
    return host, port or _PORTS[parts.scheme], parts.scheme == "https", authority, target
