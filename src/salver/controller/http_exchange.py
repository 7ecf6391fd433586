"""One HTTP exchange over a Unix socket; apart, so that only who asks carries ``http.client`` (2 MB in all)."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def exchange(path: Path, method: str, target: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError (ConnectionError for a broken answer) when there is none."""
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"a broken answer: {error}") from error
    finally:
        connection.close()
