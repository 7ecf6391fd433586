"""Constant load over HTTP, with a record of every request."""

from __future__ import annotations

import http.client
import threading
import time
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from harness.waiting import Patience

_TIMEOUT_S = 30.0
_LOOK_S = 0.1


class Outcome(NamedTuple):
    """One request.

    Attributes:
        due: when it should have been sent; sent, ended: when it was and when its answer had come (monotonic clock).
        status: None when there was no whole answer; then ``error`` says why.
    """

    due: float
    sent: float
    ended: float
    status: int | None
    body: bytes
    error: str


class ConstantLoad:
    """Sends requests at a constant rate while its ``with`` block runs, over connections that are kept alive.

    Each connection has a thread and every n-th of the requests. A connection that waits for a late answer sends what
    came due meanwhile as soon as it can: the rate does not adapt to the server.

    Args:
        url: GET requests go there.
        rate: requests per second.
        connections: how many carry them.

    Attributes:
        results: of requests that have ended, in that order.
    """

    def __init__(self, url: str, *, rate: float = 200.0, connections: int = 8) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._path = parts.path or "/"
        self._rate = rate
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(connections)]
        self._stopping = threading.Event()
        self._ended = threading.Condition()
        self._began = 0.0
        self.results: list[Outcome] = []

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send nothing more, and wait for the answers that are due."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int, within: float = 30.0) -> None:
        """Return when ``count`` more requests have ended than at the time of this call."""
        deadline = Patience(within)
        with self._ended:
            target = len(self.results) + count
            while len(self.results) < target and deadline.left():
                self._ended.wait(_LOOK_S)
            missing = target - len(self.results)
        assert missing <= 0, f"{missing} of {count} requests have not ended within {within:g} s"

    def failures(self) -> list[Outcome]:
        """Everything but answers of 200."""
        with self._ended:
            return [each for each in self.results if each.status != 200]

    def _run(self, number: int) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=_TIMEOUT_S)
        due = self._began + number / self._rate
        try:
            while not self._stopping.wait(max(0.0, due - time.monotonic())):
                outcome = self._request(connection, due)
                with self._ended:
                    self.results.append(outcome)
                    self._ended.notify_all()
                due += len(self._threads) / self._rate
        finally:
            connection.close()

    def _request(self, connection: http.client.HTTPConnection, due: float) -> Outcome:
        sent = time.monotonic()
        try:
            connection.request("GET", self._path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Outcome(due, sent, time.monotonic(), None, b"", f"{type(error).__name__}: {error}")
        return Outcome(due, sent, time.monotonic(), response.status, body, "")
