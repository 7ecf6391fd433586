"""One HTTP request at a time, with every answer a value: an error status is no exception here."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: str
    headers: dict[str, str]


def get(url: str, *, timeout: float = 30.0, headers: Mapping[str, str] | None = None) -> Answer:
    """GET ``url`` on a connection of its own. Raises OSError or HTTPException when there is no whole answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("GET", target, headers=dict(headers or {}))
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.read().decode(errors="replace"), received)
    finally:
        connection.close()


def get_later(url: str, *, timeout: float = 30.0, headers: Mapping[str, str] | None = None) -> Future[Answer]:
    """The same in a thread. The future holds the answer or the exception."""
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(get(url, timeout=timeout, headers=headers))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"GET {url}", daemon=True).start()
    return future
