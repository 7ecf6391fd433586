"""Where a control API listens on TCP, for who asks it from there."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct


class NetworkAddress(Struct, frozen=True):
    """A control API on TCP (``--admin-port``), and what opens it.

    Attributes:
        tls: whether it is reached over HTTPS: through a proxy that somebody put before it.
        token: what is in the instance's ``admin.token``.
    """

    host: str
    port: int
    tls: bool = False
    token: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def network_address(url: str, token: str) -> NetworkAddress:
    """The address that ``url`` names. Raises ValueError for what is not ``http(s)://HOST[:PORT]``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{url!r} is not of the form http://HOST:PORT")
    tls = parts.scheme == "https"
    return NetworkAddress(parts.hostname, port or (443 if tls else 80), tls, token)
