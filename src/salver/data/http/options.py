"""What a proxy is told when it starts."""

from __future__ import annotations

import re

from msgspec import Struct
from msgspec.structs import replace

from salver.data.http.limits import HTTPLimits

_is_root_path = re.compile(r"(/[!-~]*)?").fullmatch


class TLSFiles(Struct, frozen=True):
    """Where the proxy's certificate is.

    Attributes:
        certfile, keyfile: PEM files.
        keyfile_password: of the key file, None when it has none.
        ca_certs: PEM file of the authorities by which clients are verified; None does not ask them for certificates.
    """

    certfile: str
    keyfile: str
    keyfile_password: str | None = None
    ca_certs: str | None = None

    def __repr__(self) -> str:
        """Without the password: a record ends in logs."""
        return f"TLSFiles({self.certfile!r}, {self.keyfile!r}, ca_certs={self.ca_certs!r})"


class ProxyOptions(Struct, frozen=True):
    """How the HTTP ingress behaves.

    Attributes:
        limits: of what one client may send, and how slowly.
        request_timeout_s: how long a request may take from its head to the beginning of its answer; None is for ever.
        timeout_status: 504 or 408, what a client hears then.
        root_path: path prefix that a proxy in front of us has stripped, without a final slash.
        debug: clients see the tracebacks of user code; for loopback only.
        tls: None serves plain HTTP.
    """

    limits: HTTPLimits = HTTPLimits()
    request_timeout_s: float | None = None
    timeout_status: int = 504
    root_path: str = ""
    debug: bool = False
    tls: TLSFiles | None = None

    def without_password(self) -> ProxyOptions:
        """What everybody may see of it."""
        return self if self.tls is None else replace(self, tls=replace(self.tls, keyfile_password=None))


DEFAULT_PROXY_OPTIONS = ProxyOptions()

ROOT_PATH = "a path that begins with '/', or nothing"
"""What ``root_path`` may be, in words that follow "must be"."""


def clean_root_path(path: str) -> str:
    """``path`` without final slashes. Raises ValueError when it is not ``ROOT_PATH``."""
    if not _is_root_path(path) or "?" in path or "#" in path:
        raise ValueError(path)
    return path.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only. Of names, only ``localhost`` can."""
    import ipaddress  # for the few who ask

    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
