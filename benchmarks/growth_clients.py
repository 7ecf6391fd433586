"""Clients that keep many connections and use each in turn, at a rate that does not depend on the answers.

`salver bench` uses as few connections as it can; here they are the point: with 2,000 of them, each carries a request
now and then, as with real clients. A request that is due while its connection is still busy waits for it, and its
latency counts from when it was due.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from http_request import Request

OPENED_WITHIN_S, ANSWERED_WITHIN_S = 60.0, 30.0
OPENED_AT_ONCE = 100
HEAD_END, LENGTH, OK_LINE = b"\r\n\r\n", b"content-length:", b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Turns:
    """What the clients saw, and what it cost.

    Attributes:
        latencies_ms: of all requests, from when each was due to its last byte, sorted.
        cost: what the meter has counted from the first request to the last answer.
    """

    latencies_ms: list[float]
    cost: float

    def percentile(self, percent: float) -> float:
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * percent / 100))]


class Client(asyncio.Protocol):
    """One connection: a request at a time, the next ones in a queue."""

    def __init__(self, request: bytes, ended: Callable[[float], None], failed: Callable[[Exception], None]) -> None:
        self._request = request
        self._ended = ended
        self._failed = failed
        self._due: deque[float] = deque()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        """A request is due now."""
        self._due.append(time.perf_counter())
        if len(self._due) == 1:
            self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(HEAD_END)
        if not end or len(body) < int(head.lower().partition(LENGTH)[2].split(b"\r\n", 1)[0]):
            return
        if not head.startswith(OK_LINE):
            self._failed(RuntimeError(f"answered {head[:40]!r}"))
            return
        self._received = b""
        self._ended(time.perf_counter() - self._due.popleft())
        if self._due:
            self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed(exc or ConnectionError("the server closed a connection"))


class Crowd:
    """All clients; `paths` go to them in turn."""

    def __init__(self, port: int, paths: Sequence[str], connections: int) -> None:
        self._port = port
        self._requests = [Request(path).head() for path in paths]
        self._connections = connections
        self._clients: list[Client] = []
        self._seconds: list[float] = []
        self._wanted = 0
        self._all_answered: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        """Opens the connections; each has carried one request, so that opening them is no part of what follows."""
        async with asyncio.timeout(OPENED_WITHIN_S):
            for first in range(0, self._connections, OPENED_AT_ONCE):
                numbers = range(first, min(first + OPENED_AT_ONCE, self._connections))
                self._clients += await asyncio.gather(*(self._opened(number) for number in numbers))
                self._expect(len(numbers))
                for number in numbers:
                    self._clients[number].ask()
                await self._all_answered
        return self

    async def __aexit__(self, *_: object) -> None:
        self._expect(0)
        self._all_answered.cancel()
        for client in self._clients:
            client.transport.close()

    async def load(self, rate: float, seconds: float, meter: Callable[[], Callable[[], float]]) -> Turns:
        """Poisson arrivals. `meter` begins to count; what it returns says how much it was. Raises RuntimeError or
        OSError when one request fails."""
        self._expect(max(1, round(rate * seconds)))
        cost, chance = meter(), random.Random(0)
        due = time.perf_counter()
        for number in range(self._wanted):
            due += chance.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._clients[number % len(self._clients)].ask()
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            await self._all_answered
        return Turns(sorted(1e3 * each for each in self._seconds), cost())

    async def _opened(self, number: int) -> Client:
        request = self._requests[number % len(self._requests)]
        make = lambda: Client(request, self._answered, self._failed)  # noqa: E731 - it is a callback
        _, client = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._port)
        return client

    def _expect(self, answers: int) -> None:
        self._seconds, self._wanted = [], answers
        self._all_answered = asyncio.get_running_loop().create_future()

    def _answered(self, seconds: float) -> None:
        self._seconds.append(seconds)
        if len(self._seconds) == self._wanted and not self._all_answered.done():
            self._all_answered.set_result(None)

    def _failed(self, error: Exception) -> None:
        if not self._all_answered.done():
            self._all_answered.set_exception(error)
