"""Bodies larger than memory, and clients that are slow: the proxy's memory stays what it was."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from harness.instance import SalverRun

Start = Callable[..., SalverRun]

GB = 1024**3
MOST_PROXY_MB = 64

APP = """
import asyncio

from salver import serve

PIECE = bytes(1024 * 1024)
produced = 0

@serve.deployment(max_ongoing_requests=10)
class Bodies:
    async def __call__(self, request):
        global produced
        what = request.url.path.rsplit("/", 1)[-1]
        if what == "upload":
            return sum([len(piece) async for piece in request.stream()])
        if what == "slow-upload":
            size = 0
            async for piece in request.stream():
                size += len(piece)
                await asyncio.sleep(0.02)
            return size
        if what == "download":
            return self.pieces(int(request.query_params["mb"]))
        if what == "produced":
            return produced
        return "ok"

    async def pieces(self, count):
        global produced
        produced = 0
        for _ in range(count):
            yield PIECE
            produced += 1

app = Bodies.bind()
"""


def peak_mb(run: SalverRun) -> float:
    """The most memory that the proxy has ever had in RAM."""
    [pid] = run.pids()["proxy"]
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def zeros(size: int) -> Iterator[bytes]:
    piece = bytes(1024 * 1024)
    for _ in range(size // len(piece)):
        yield piece


def start(salver_run: Start) -> SalverRun:
    return salver_run("app:app", "--port", "0", "--max-body", "2G", files={"app.py": APP})


def test_a_gigabyte_up_and_down(salver_run: Start) -> None:
    run = start(salver_run)
    assert int(requests.post(f"{run.url}upload", data=zeros(GB), timeout=100).text) == GB
    with requests.get(f"{run.url}download?mb=1024", stream=True, timeout=100) as answer:
        assert sum(len(piece) for piece in answer.iter_content(1024 * 1024)) == GB
    assert peak_mb(run) <= MOST_PROXY_MB


def test_an_application_that_reads_slowly_stops_its_client(salver_run: Start) -> None:
    run = start(salver_run)
    size = 32 * 1024 * 1024
    before = peak_mb(run)
    assert int(requests.post(f"{run.url}slow-upload", data=zeros(size), timeout=100).text) == size
    assert peak_mb(run) - before < 8


def test_a_client_that_stops_reading_stops_the_generator(salver_run: Start) -> None:
    """It is given what fits between; the rest is not even made, until it reads on."""
    run = start(salver_run)
    before = peak_mb(run)
    with socket.create_connection(("127.0.0.1", run.port), 10) as client:
        client.sendall(b"GET /download?mb=200 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        produced = settled(lambda: int(requests.get(f"{run.url}produced", timeout=10).text))
        assert produced < 20, "MB were made; the kernel's own buffers hold about ten"
        assert peak_mb(run) - before < 8
        client.settimeout(60)
        got = 0
        while piece := client.recv(1024 * 1024):
            got += len(piece)
    assert got > 200 * 1024 * 1024


def test_many_clients_that_do_not_read(salver_run: Start) -> None:
    run = start(salver_run)
    before = peak_mb(run)
    clients = [socket.create_connection(("127.0.0.1", run.port), 10) for _ in range(200)]
    try:
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(
                b"GET /download?mb=200 HTTP/1.1\r\nhost: a\r\n\r\n" + b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 5
            )
        settled(lambda: round(peak_mb(run)))
        assert peak_mb(run) - before < 10 + 200 * 0.4  # the window and the socket's queue of each, at most
    finally:
        for client in clients:
            client.close()
    assert requests.get(run.url, timeout=30).text == "ok"


def settled(measure: Callable[[], int], still_s: float = 1.0) -> int:
    """``measure`` when it has not changed for a while."""
    value, since = measure(), time.monotonic()
    while time.monotonic() - since < still_s:
        threading.Event().wait(0.05)
        now = measure()
        if now != value:
            value, since = now, time.monotonic()
    return value
