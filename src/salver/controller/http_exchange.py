"""One HTTP exchange with a control API; apart, so that only who asks carries ``http.client`` (2 MB in all)."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from salver.controller.network_address import NetworkAddress


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def exchange(
    where: Path | NetworkAddress, method: str, target: str, body: bytes | None, timeout_s: float
) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError (ConnectionError for a broken answer) when there is none.

    Args:
        where: a Unix socket, or an address with its token.
    """
    connection = _connection(where, timeout_s)
    headers = {"authorization": f"Bearer {where.token}"} if isinstance(where, NetworkAddress) else {}
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"a broken answer: {error}") from error
    finally:
        connection.close()


def _connection(where: Path | NetworkAddress, timeout_s: float) -> http.client.HTTPConnection:
    if isinstance(where, Path):
        return _UnixConnection(where, timeout_s)
    kind = http.client.HTTPSConnection if where.tls else http.client.HTTPConnection
    return kind(where.host, where.port, timeout=timeout_s)
