"""A control API that listens on TCP: where, and for whom."""

from __future__ import annotations

from msgspec import Struct


class AdminOptions(Struct, frozen=True):
    """Where the control API listens on TCP.

    Attributes:
        host, port: the address; port 0 lets the system choose.
        allowed_hosts: names that are accepted in the Host header, beside the address itself and this machine's names
            for itself (``localhost``, ``127.0.0.1``, ``[::1]``).
    """

    host: str = "127.0.0.1"
    port: int = 0
    allowed_hosts: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"
