"""The proxy under clients that are slow, many, or both: real sockets, a real replica, short limits."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from salver.data.http import proxy as proxy_module
from salver.data.http.limits import HTTPLimits

from .client_scene import Client
from .proxy_scene import ProxyScene, TCPClient, serving
from .scene import run

SHORT = HTTPLimits(header_timeout_s=1.0, body_idle_timeout_s=1.0, keep_alive_timeout_s=1.0)
LATEST_S = 10.0
"""Until a client that is a second late is cut: the sweep's second, and a loaded machine's."""

SLOW_CLIENTS = 60
LARGE = 6_000_000
NEVER_ENDS = b"x" * 10_000


class Desk:
    """The application."""

    async def __call__(self, request: Request) -> Any:
        if request.url.path == "/large":
            return "x" * LARGE
        if request.url.path == "/stream":
            return StreamingResponse("x" * 50_000 for _ in range(LARGE // 50_000))
        return len(await request.body())


# --- slow senders --------------------------------------------------------------------------------------

SLOW = {
    "silent": (b"", b"", b""),
    "head": (b"GET / HTTP/1.1\r\nHost: a\r\nA: ", NEVER_ENDS, b"HTTP/1.1 408 Request Timeout\r\n"),
    "line ends": (b"", b"\r\n\r\n" + b"GET / HTTP/1.1\r\n", b"HTTP/1.1 408 Request Timeout\r\n"),
    "body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n", NEVER_ENDS, b"HTTP/1.1 408 "),
    "upload": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", NEVER_ENDS, b"HTTP/1.1 408 "),
    "chunks": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n" * 2000,
        b"HTTP/1.1 408 ",
    ),
    "extension": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        NEVER_ENDS,
        b"HTTP/1.1 408 ",
    ),
}


async def send_slowly(scene: ProxyScene, first: bytes, drip: bytes, expected: bytes) -> None:
    """Send 5 bytes a second, for as long as that goes."""
    async with await scene.connect() as client:
        await client.send(first)
        dripping = asyncio.create_task(client.drip(drip, 0.2))
        began = time.monotonic()
        answer = await client.read_to_end()
        assert time.monotonic() - began < LATEST_S, "the deadline is absolute: no byte puts it off"
        assert time.monotonic() - began > 0.5
        assert answer.startswith(expected) if expected else not answer
        assert b"connection: close" in answer or not expected
        dripping.cancel()
        await asyncio.wait({dripping})


async def measure(scene: ProxyScene, done: asyncio.Event) -> list[float]:
    """Seconds that requests took, one after the other on one connection, until ``done``."""
    took: list[float] = []
    async with await scene.connect() as client:
        while not done.is_set():
            began = time.monotonic()
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")
            answer = await client.read(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
    return took


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_slow_senders_are_cut_in_time_and_hold_up_nobody(tls: bool) -> None:
    async def test() -> None:
        async with serving(Desk, SHORT, tls=tls) as scene:
            done = asyncio.Event()
            load = [asyncio.create_task(measure(scene, done)) for _ in range(4)]
            async with asyncio.TaskGroup() as group:
                for _ in range(SLOW_CLIENTS if not tls else SLOW_CLIENTS // 6):
                    for kind in SLOW.values():
                        group.create_task(send_slowly(scene, *kind))
            done.set()
            took = sorted(itertools.chain.from_iterable(await asyncio.gather(*load)))
            assert len(took) > 100
            assert took[len(took) // 2] < 0.25, "half of them"
            assert took[-1] < 2.0, "the slowest"

    run(test())


def test_line_ends_before_a_request_do_not_put_its_deadline_off() -> None:
    async def test() -> None:
        client = Client()
        client.send(b"\r")
        deadline = client.connection.deadline
        for byte in (b"\n", b"\r", b"\n", b"G"):
            await asyncio.sleep(0.001)
            client.send(byte)
            assert client.connection.deadline == deadline

    run(test())


def test_a_head_that_began_while_another_was_answered_is_not_given_the_time_of_an_idle_connection() -> None:
    limits = HTTPLimits(header_timeout_s=1.0, keep_alive_timeout_s=1000.0)

    async def test() -> None:
        async with serving(Desk, limits) as scene, await scene.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")
            answers = await client.read_to_end()
            assert answers.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"HTTP/1.1 408 " in answers

    run(test())


def test_a_408_to_head_has_no_body_and_a_408_has_the_requests_id() -> None:
    async def test() -> None:
        async with serving(Desk, SHORT) as scene, await scene.connect() as client:
            await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nContent-Length: 9\r\n\r\nx")
            answer = await client.read_to_end()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert answer.endswith(b"\r\n\r\n")
            assert b"x-request-id: mine\r\n" in answer

    run(test())


# --- slow readers --------------------------------------------------------------------------------------


async def ask(scene: ProxyScene, path: bytes) -> TCPClient:
    client = await scene.connect(receive_buffer=4096)
    await client.send(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path)
    return client


@pytest.mark.parametrize("path", [b"/large", b"/stream"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_reads_slowly_is_not_cut(path: bytes, tls: bool) -> None:
    """Also at the end, when all that it has yet to read is in the kernel's buffer."""

    async def test() -> None:
        async with serving(Desk, SHORT, tls=tls) as scene, await ask(scene, path) as client:
            got, began = 0, time.monotonic()
            while time.monotonic() - began < 3.5 * SHORT.body_idle_timeout_s:
                got += len(await client.read(32768))
                await asyncio.sleep(0.1)
            assert got < LARGE, "it was slow"
            assert got + len(await client.read_to_end()) > LARGE

    run(test())


@pytest.mark.parametrize("path", [b"/large", b"/stream"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_stops_reading_is_cut(path: bytes, tls: bool) -> None:
    async def test() -> None:
        async with serving(Desk, SHORT, tls=tls) as scene, await ask(scene, path) as client:
            assert await client.read(1000)
            while scene.proxy._connections:
                await asyncio.sleep(0.01)  # the test's own time limit ends this
            assert len(await client.read_to_end()) < LARGE

    run(test())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_sends_and_does_not_read_is_cut(tls: bool) -> None:
    """What it sends does not make up for what it does not read; nor does it that nobody reads that, in turn."""

    async def test() -> None:
        async with serving(Desk, SHORT, tls=tls) as scene, await scene.connect(receive_buffer=4096) as client:
            await client.send(b"POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not any(each._paused_writing for each in scene.proxy._connections):
                await asyncio.sleep(0.01)
            chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
            sending = asyncio.create_task(client.flood(chunk))
            while scene.proxy._connections:
                await asyncio.sleep(0.01)  # the test's own time limit ends this
            await sending

    run(test())


# --- many ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_there_is_a_limit_to_connections(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    monkeypatch.setattr(proxy_module, "_MOST_CONNECTIONS", 3)

    async def test() -> None:
        async with serving(Desk, HTTPLimits(), tls=tls) as scene:
            request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
            kept = [await scene.connect() for _ in range(3)]
            for client in kept:
                await client.send(request)
                assert (await client.read(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
            for _ in range(5):
                async with await scene.connect() as client:
                    answer = await client.read_to_end()
                    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                    assert b"\r\nretry-after: 1\r\n" in answer
                    assert b"\r\nconnection: close\r\n" in answer
            for client in kept:  # they are not disturbed
                await client.send(request)
                assert (await client.read(65536)).startswith(b"HTTP/1.1 200 OK\r\n")
            async with kept.pop():
                pass
            while len(scene.proxy._connections) >= 3:
                await asyncio.sleep(0.01)
            assert (await scene.get()).startswith(b"HTTP/1.1 200 OK\r\n")
            for client in kept:
                async with client:
                    pass

    run(test())
