"""Open-loop load over HTTP: every request leaves when it is due, whatever became of those before it.

Arrivals are a Poisson process: clients that do not know of each other. A request takes a connection that is idle, or
opens another one, so a server that stalls meets more and more requests, as in life. Latency counts from the moment at
which a request was due, which hides neither the server's stalls nor ours (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from harness.waiting import eventually

_TIMEOUT_S = 60.0
_LOOK_S = 0.05


class Sent(NamedTuple):
    """One request and the one thing that became of it; times are of the monotonic clock.

    Attributes:
        number: from 0, in the order in which they were due; part of the request as ``id``.
        path: what was asked for.
        due: when it had to leave; sent: when its bytes did, or would have, had there been a connection.
        first_byte: of its answer; None when there was none.
        status: None when there was no whole answer; then ``error`` says why.
        headers: names in lower case.
    """

    number: int
    path: str
    due: float
    sent: float
    first_byte: float | None
    ended: float
    status: int | None
    headers: dict[str, str]
    body: str
    error: str

    @property
    def latency(self) -> float:
        return self.ended - self.due


class OpenLoad:
    """Sends GET requests while its ``with`` block runs.

    Args:
        url: where the server is; paths are below it.
        rate: requests per second on average; may be changed at any time.
        path: of the n-th request, relative to ``url``.
        seed: of the arrivals.

    Attributes:
        results: of requests that have ended, in that order.
        sent: how many have left so far.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: float = 100.0,
        path: Callable[[int], str] = lambda number: f"?id={number}",
        seed: int = 0,
    ) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._prefix = parts.path or "/"
        self._path = path
        self._random = random.Random(seed)
        self._idle: list[_Connection] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="open load")
        self.rate = rate
        self.results: list[Sent] = []
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send nothing more, and wait for the answers that are due."""
        self._stopping.set()
        self._thread.join()
        assert sorted(each.number for each in self.results) == list(range(self.sent)), "each has one outcome"

    def wait_for(self, count: int, within: float = 60.0) -> None:
        """Return when ``count`` more requests have ended than at the time of this call."""
        target = len(self.results) + count
        eventually(f"{target} requests have ended", lambda: len(self.results) >= target, within)

    def failures(self) -> list[Sent]:
        """Everything but answers of 200."""
        return [each for each in self.results.copy() if each.status != 200]

    # --- the loop's side --------------------------------------------------------------------------------

    async def _run(self) -> None:
        due = time.monotonic()
        try:
            async with asyncio.TaskGroup() as requests:
                while not self._stopping.is_set():
                    due += self._random.expovariate(self.rate)
                    while (left := due - time.monotonic()) > 0 and not self._stopping.is_set():
                        await asyncio.sleep(min(left, _LOOK_S))
                    if self._stopping.is_set():
                        break
                    requests.create_task(self._request(self.sent, due))
                    self.sent += 1
        finally:
            for connection in self._idle:
                await connection.close()

    async def _request(self, number: int, due: float) -> None:
        path = self._prefix + self._path(number)
        sent, first_byte = time.monotonic(), None
        status, headers, body, error = None, dict[str, str](), b"", ""
        connection = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                connection = self._from_idle() or await _Connection.dial(self._address)
                sent = time.monotonic()
                head = await connection.ask(path)
                first_byte = time.monotonic()
                headers = head.headers
                body = await connection.body(head)
                status = head.status
        except (OSError, EOFError, TimeoutError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        text = body.decode(errors="replace")
        ended = time.monotonic()
        self.results.append(Sent(number, path, due, sent, first_byte, ended, status, headers, text, error))
        if connection is None:
            return
        if status is None or headers.get("connection") == "close":
            await connection.close()
        else:
            self._idle.append(connection)

    def _from_idle(self) -> _Connection | None:
        """The one that was used last and that the server has not closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.abort()
        return None


class _Head(NamedTuple):
    status: int
    headers: dict[str, str]


class _Connection:
    """To the server, kept alive between requests; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def dial(cls, address: tuple[str, int]) -> _Connection:
        return cls(*await asyncio.open_connection(*address))

    @property
    def is_open(self) -> bool:
        return not self._reader.at_eof() and self._reader.exception() is None and not self._writer.is_closing()

    async def ask(self, path: str) -> _Head:
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        return _Head(int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields})

    async def body(self, head: _Head) -> bytes:
        """All of it. Raises EOFError when it ends too soon."""
        if head.headers.get("transfer-encoding") != "chunked":
            return await self._reader.readexactly(int(head.headers["content-length"]))
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return body

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # it was broken already
