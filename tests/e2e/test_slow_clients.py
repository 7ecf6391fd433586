"""Clients that hold connections and say little, and a proxy without descriptors: everybody else is served."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psutil

from harness.fair_clock import FairClock
from harness.http import get
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually
from harness.wire import Wire

Start = Callable[..., SalverRun]

APP = """
from salver import serve

@serve.deployment(max_ongoing_requests=100)
async def app(request):
    return str(len(await request.body()))

app = app.bind()
"""

SOCKETS = 400
HEADERS_WITHIN_S = 10.0
"""The limit; the tests allow twice as much."""

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def slow(port: int, first: bytes) -> tuple[float, float, bytes]:
    """Send a byte a second; when that began, when the proxy ended it, and what it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def drip() -> None:
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")

    began = time.monotonic()
    dripping = asyncio.create_task(drip()) if first else None
    try:
        answer = await asyncio.wait_for(reader.read(), 8 * HEADERS_WITHIN_S)
        return began, time.monotonic(), answer
    except ConnectionResetError:
        return began, time.monotonic(), b""
    finally:
        if dripping is not None:
            dripping.cancel()
        writer.transport.abort()


async def slow_ones(port: int) -> list[tuple[float, float, bytes]]:
    kinds = (b"", b"GET / HTTP/1.1\r\nHost: a\r\nA: ")
    return list(await asyncio.gather(*(slow(port, kinds[number % 2]) for number in range(SOCKETS))))


def test_slow_clients_end_at_their_deadline_and_hold_up_nobody(salver_run: Start) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})
    with FairClock() as clock, ConstantLoad(run.url, rate=100.0) as load:
        ended = asyncio.run(slow_ones(run.port))
    assert load.failures() == []
    took = sorted(clock.between(each.sent, each.ended) for each in load.results)
    assert took[len(took) // 2] < 0.25
    assert took[-1] < 5.0
    for number, (began, ended_at, answer) in enumerate(ended):
        assert ended_at - began > 0.9 * HEADERS_WITHIN_S
        assert clock.between(began, ended_at) < 2 * HEADERS_WITHIN_S
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n" if number % 2 else b"")
        assert answer or not number % 2


# --- descriptors ---------------------------------------------------------------------------------------


@contextmanager
def limited(pid: int, descriptors: int) -> Generator[None]:
    """Let a process have so many descriptors."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_the_proxy_serves_whom_it_has_and_does_not_spin(salver_run: Start) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})
    [pid] = run.pids()["proxy"]
    proxy = psutil.Process(pid)
    with Wire(run.port) as established:
        assert established.send(REQUEST).answer().status == 200
        with limited(pid, proxy.num_fds() + 4):
            waiting = [Wire(run.port) for _ in range(100)]
            try:
                busy, since = sum(proxy.cpu_times()[:2]), time.monotonic()
                while time.monotonic() - since < 3:
                    assert established.send(REQUEST).answer().status == 200
                    time.sleep(0.05)
                spent = sum(proxy.cpu_times()[:2]) - busy
                assert spent / (time.monotonic() - since) < 0.2, "of a core"
            finally:
                for each in waiting:
                    each.__exit__(None, None, None)
        eventually("a new client is served", lambda: answers(run), 5)
        assert established.send(REQUEST).answer().status == 200
    assert run.pids()["proxy"] == [pid]


def answers(run: SalverRun) -> bool:
    try:
        return get(run.url, timeout=5).status == 200
    except OSError:
        return False


def test_connections_are_limited_to_half_of_the_descriptors(salver_run: Start) -> None:
    """The other half is for files and for the connections to replicas."""
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})
    [old] = run.pids()["proxy"]
    resource.prlimit(run.supervisor_pid, resource.RLIMIT_NOFILE, (64, 64))  # the next proxy inherits it
    os.kill(old, signal.SIGKILL)
    eventually("another proxy", lambda: run.pids()["proxy"] not in ([], [old]) and answers(run))
    kept: list[Wire] = []
    try:
        for _ in range(32):
            kept.append(Wire(run.port))
            assert kept[-1].send(REQUEST).answer().status == 200
        for _ in range(50):
            with Wire(run.port) as wire:
                answer = wire.answer()
                assert (answer.status, answer.closes, answer.values(b"retry-after")) == (503, True, [b"1"])
                assert wire.rest() == b""
        for wire in kept:
            assert wire.send(REQUEST).answer().status == 200
        run.wait_for_output(r"WARNING .* proxy \d+ -- \d+ connections turned away: no more than 32\n")
    finally:
        for wire in kept:
            wire.__exit__(None, None, None)
    eventually("a new client is served", lambda: answers(run), 5)
