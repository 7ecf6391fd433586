"""Why a page in this user's browser gets nothing done here, even one that knows where to ask.

A page of somebody else's may send requests to ``http://localhost``, and a name of theirs may resolve to 127.0.0.1, so
that the browser takes us for their site (DNS rebinding). The Host header gives the second away, since browsers write
the name of the page into it; ``Origin`` and ``Sec-Fetch-Site`` the first, since pages cannot forge them. The token
would stop both. These hold also when it has leaked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from salver.controller.api.auth import Headers

SECURITY_HEADERS: Mapping[bytes, bytes] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
"""In every answer: it is data, to be shown, framed, kept or guessed at by nobody."""

_OF_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
_WITHOUT_EFFECT = frozenset({"GET", "HEAD", "OPTIONS"})


def is_host_allowed(headers: Headers, own_address: str, allowed: Collection[str]) -> bool:
    """Whether the Host header is ours.

    Args:
        own_address: at which the client has reached us. A browser that was led here by a name does not write it.
        allowed: other names, as the user said.
    """
    given = [value for name, value in headers if name == b"host"]
    if len(given) != 1:
        return False
    host = _host_of(given[0].decode("latin-1"))
    return host in _OF_THIS_MACHINE or host == own_address.lower() or host in {each.lower() for each in allowed}


def is_from_our_pages(method: str, headers: Headers) -> bool:
    """Whether a request may have its effect: no browser sent it, or one did for a page of this very server."""
    if method in _WITHOUT_EFFECT:
        return True
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    sites = values.get(b"sec-fetch-site", [])
    if any(site not in {b"same-origin", b"none"} for site in sites):
        return False
    host = values.get(b"host", [b""])[0].lower()
    ours = {b"http://" + host, b"https://" + host}  # the latter behind a proxy that does TLS
    return all(origin.lower() in ours for origin in values.get(b"origin", []))


def _host_of(authority: str) -> str:
    """Without the port, in lower case; ``::1`` for ``[::1]:80``."""
    authority = authority.strip().lower()
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].removesuffix(".")
