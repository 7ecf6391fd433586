"""Hosts and request targets (RFC 9112, section 3.2): every accepted form ends as origin-form."""

from __future__ import annotations

import re
from functools import lru_cache

from salver.data.http.limits import BadRequest

_is_host = re.compile(
    rb"(?: [A-Za-z0-9\-._~!$&'()*+,;=%]* | \[[A-Za-z0-9:.%_~\-]+\] ) (?: :[0-9]{0,5} )?", re.VERBOSE
).fullmatch
_split_absolute = re.compile(rb"(https?)://([^/?]*)([^?]*)((?:\?.*)?)", re.IGNORECASE | re.DOTALL).fullmatch
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=1024)  # refusals are not kept, and a kept host is short
def check_host(host: bytes) -> None:
    """Refuse what is not ``uri-host [":" port]``, 255 bytes at most. The RFC allows an empty one.

    Raises:
        BadRequest: 400.
    """
    if len(host) > 255 or not _is_host(host):
        raise BadRequest(400, "the Host header is not a host with an optional port")


def origin_form(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Reduce a target that does not start with a slash.

    Args:
        method: as sent; only OPTIONS may use the asterisk-form.
        target: the request target as sent.
        host: the Host header's value, None when there is none (HTTP/1.0).

    Returns:
        The target, ``/path?query`` or ``*``, and the host that it is for.

    Raises:
        BadRequest: 400 for any other form, and for an absolute-form whose authority is not the Host header's:
            a proxy before us that looks at the other one of the two would see another request than we do.
    """
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest(400, "only OPTIONS may have the target *")
        return target, host or b""
    absolute = _split_absolute(target)
    if absolute is None:
        raise BadRequest(400, "the request target is neither a path nor an http URL")
    scheme, authority, path, query = absolute.groups()
    if not authority:
        raise BadRequest(400, "the request target is a URL without a host")
    check_host(authority)
    if host is not None:
        port = _DEFAULT_PORTS[scheme.lower()]
        if _without_port(authority, port) != _without_port(host, port):
            raise BadRequest(400, "the request target names another host than the Host header")
    if not path and not query and method == b"OPTIONS":
        return b"*", authority
    return (path or b"/") + query, authority


def _without_port(authority: bytes, default_port: bytes) -> bytes:
    return authority.lower().removesuffix(b":").removesuffix(default_port)
