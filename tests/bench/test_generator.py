"""The generator against servers that behave in every way that servers do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable

import pytest
import trustme
import uvloop

from bench.raw_server import RawServer, answer
from salver.bench.failure import Failure
from salver.bench.generator import Generator, Limits
from salver.bench.reach import NoServerError, reach
from salver.bench.request import make_request
from salver.bench.schedule import ClosedLoop, OpenLoop
from salver.bench.tally import Tally

WITHIN_S = 30.0

uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good: no test leaves that behind


def measure(
    url: str,
    *,
    rate: float | None = 50,
    duration_s: float = 0.2,
    method: str = "GET",
    body: bytes | None = None,
    limits: Limits = Limits(8, 10.0),  # noqa: B008
    tls: ssl.SSLContext | None = None,
) -> tuple[Tally, int]:
    """One run without a warm-up: its tally, and how many connections it has opened."""
    request = make_request(url, method, body=body)
    complaints: list[dict[str, object]] = []

    async def run() -> tuple[Tally, int]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(WITHIN_S):
            server = await reach(request, tls, limits.timeout_s)
            begin = time.monotonic_ns()
            end = begin + int(duration_s * 1e9)
            tally = Tally(begin, end)
            schedule = (
                ClosedLoop(start=begin, end=end)
                if rate is None
                else OpenLoop("uniform", rate, 0, start=begin, end=end)
            )
            generator = Generator(server, request, schedule, tally, limits)
            await generator.run()
            return tally, generator.opened

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run())
    assert complaints == []
    return found


def says(*parts: bytes, close: bool = False) -> Callable[[int, asyncio.StreamWriter], Awaitable[None]]:
    """Answers with these bytes, a packet for each, and closes or does not."""

    async def answerer(_: int, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return answerer


async def silence(_: int, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def reset(_: int, writer: asyncio.StreamWriter) -> None:
    lingering = writer.get_extra_info("socket")
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("answerer", "method", "status", "kept"),
    [
        pytest.param(says(answer()), "GET", 200, True, id="length"),
        pytest.param(says(*(bytes([byte]) for byte in answer())), "GET", 200, True, id="byte by byte"),
        pytest.param(says(CHUNKED), "GET", 200, True, id="chunked"),
        pytest.param(says(b"HTTP/1.1 204 No\r\n\r\n"), "DELETE", 204, True, id="no content"),
        pytest.param(says(b"HTTP/1.1 304 Same\r\ncontent-length: 9\r\n\r\n"), "GET", 304, True, id="not modified"),
        pytest.param(says(b"HTTP/1.1 100 Continue\r\n\r\n", answer(status=404)), "PUT", 404, True, id="continue"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), "HEAD", 200, True, id="head"),
        pytest.param(says(answer(headers="connection: close\r\n"), close=True), "GET", 200, False, id="close"),
        pytest.param(says(b"HTTP/1.0 200 OK\r\n\r\nto the end", close=True), "GET", 200, False, id="to the end"),
        pytest.param(says(answer() + answer()), "GET", 200, False, id="two answers at once"),
        pytest.param(says(answer() + b"rubbish"), "GET", 200, False, id="rubbish behind it"),
    ],
)
def test_every_kind_of_answer_is_understood(answerer: Callable, method: str, status: int, kept: bool) -> None:  # type: ignore[type-arg]
    with RawServer(answerer) as server:
        tally, opened = measure(server.url, method=method)
    assert (tally.statuses, tally.failures) == ({status: 10}, {})
    assert tally.requests == 10
    assert (opened < 10) is kept


@pytest.mark.parametrize(
    ("answerer", "failure"),
    [
        pytest.param(says(close=True), "closed", id="closes"),
        pytest.param(reset, "reset", id="resets"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\ncontent-le", close=True), "truncated", id="within the head"),
        pytest.param(says(answer()[:-1], close=True), "truncated", id="within the body"),
        pytest.param(says(CHUNKED[:-3], close=True), "truncated", id="within the chunks"),
        pytest.param(says(b"220 smtp.example ESMTP\r\n"), "malformed", id="not HTTP"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "malformed", id="not a header"),
        pytest.param(
            says(b"HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), "malformed", id="upgrade"
        ),
        pytest.param(silence, "timeout", id="never answers"),
        pytest.param(says(answer()[:-1]), "timeout", id="never ends"),
    ],
)
def test_every_kind_of_failure_is_counted_as_what_it_is(answerer: Callable, failure: str) -> None:  # type: ignore[type-arg]
    with RawServer(answerer) as server:
        tally, _ = measure(server.url, limits=Limits(20, 0.3 if failure == "timeout" else 10.0))
    assert {kind.value: count for kind, count in tally.failures.items()} == {failure: 10}
    assert (tally.requests, tally.statuses) == (10, {})


def test_a_request_that_waits_too_long_for_a_connection_is_never_sent() -> None:
    with RawServer(silence) as server:
        tally, opened = measure(server.url, limits=Limits(2, 0.3))
    assert tally.failures.total() == tally.requests == 10
    assert tally.failures[Failure.TIMEOUT] == opened == len(server.requests) < 10
    assert tally.failures[Failure.UNSENT] >= 1


@pytest.mark.parametrize("rate", [300, None])
def test_there_are_never_more_connections_than_allowed(rate: float | None) -> None:
    async def slow(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(answer())

    with RawServer(slow) as server:
        tally, opened = measure(server.url, rate=rate, limits=Limits(3, 10.0))
    assert opened == 3
    assert tally.statuses[200] == len(server.requests) == tally.requests
    if rate is not None:
        assert tally.requests == 60
        assert tally.waited > 20


def test_large_bodies_go_both_ways_and_are_counted_not_kept() -> None:
    body = bytes(1_000_000)
    with RawServer(says(answer(body=bytes(8_000_000)))) as server:
        tally, _ = measure(server.url, rate=5, duration_s=0.5, method="POST", body=body)
        assert len(server.requests) == tally.statuses[200] == 3
        assert all(request.endswith(body) for request in server.requests)
    assert tally.successful.percentile(0) > tally.first_byte.percentile(0)


def test_a_server_that_goes_away_is_counted_and_its_return_is_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        request = make_request(f"http://127.0.0.1:{port}/", "GET")

        async def run() -> Tally:
            server = await reach(request, None, 5.0)
            probe.close()
            begin = time.monotonic_ns()
            tally = Tally(begin, begin + 10**8)
            schedule = OpenLoop("uniform", 100, 0, start=begin, end=begin + 10**8)
            await Generator(server, request, schedule, tally, Limits(4, 5.0)).run()
            return tally

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            tally = runner.run(run())
    assert {kind.value: count for kind, count in tally.failures.items()} == {"refused": 10}


# --- before the first request ---------------------------------------------------------------------------


def test_who_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    with pytest.raises(
        NoServerError, match=r"no server at 127\.0\.0\.1:\d+: connection refused: nobody listens there"
    ):
        measure(url)


def test_certificates_are_checked_unless_they_are_not_to_be() -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    with RawServer(tls=theirs) as server:
        for context in (trusting, blind):
            assert measure(server.url, tls=context)[0].statuses == {200: 10}
        with pytest.raises(NoServerError, match=r"certificate is not trusted: .* \(--ca FILE trusts it"):
            measure(server.url, tls=ssl.create_default_context())
    with RawServer() as plain, pytest.raises(NoServerError, match=r"no TLS connection within 0\.3 s"):
        measure(plain.url.replace("http:", "https:"), tls=blind, limits=Limits(8, 0.3))
