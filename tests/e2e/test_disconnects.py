"""Clients that leave: at any phase, what runs for them stops at once and its slot is free."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import Patience, eventually

Start = Callable[..., SalverRun]

CANCELLED_WITHIN_S = 1.0
"""The promise is 0.1 s; a loaded machine gets more. Nothing here would end by itself."""

APP = """
import asyncio
from pathlib import Path

from salver import serve

@serve.deployment
class Child:
    async def __call__(self, mark):
        await wait(mark + "-child")

async def wait(mark):
    Path(mark + ".started").touch()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(mark + ".cancelled").touch()
        raise

@serve.deployment(max_ongoing_requests=1)
class Root:
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        what, mark = request.url.path.rsplit("/", 1)[-1], request.query_params.get("mark")
        if what == "wait":
            await wait(mark)
        if what == "body":
            Path(mark + ".started").touch()
            try:
                await request.body()
            except BaseException:
                Path(mark + ".cancelled").touch()
                raise
        if what == "child":
            await self.child.remote(mark)
        if what == "stream":
            return self.stream(mark)
        if what == "flood":
            return self.flood(mark)
        if what == "goes-on":
            Path(mark + ".started").touch()
            while not Path(mark + ".released").exists():
                await asyncio.sleep(0.01)
            Path(mark + ".finished").touch()
        return "ok"

    async def stream(self, mark):
        yield "first"
        await wait(mark)

    async def flood(self, mark):
        Path(mark + ".started").touch()
        try:
            while True:
                yield "x" * 65536
        finally:
            Path(mark + ".cancelled").touch()

app = Root.bind(Child.bind())
"""


@pytest.fixture(scope="module")
def run(module_run: Start) -> SalverRun:
    return module_run("app:app", files={"app.py": APP})


class Leaver:
    """A client that sends something, and leaves when it is told."""

    def __init__(self, run: SalverRun, head: str, body: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", run.port), 10)
        self.socket.sendall(f"{head}\r\nhost: a\r\n\r\n".encode() + body)

    def leave(self, *, reset: bool) -> Patience:
        """How long user code may run on, from now."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        return Patience(CANCELLED_WITHIN_S)


def assert_cancelled(mark: Path, within: Patience) -> None:
    eventually("user code was cancelled", mark.with_name(f"{mark.name}.cancelled").exists, within)


def assert_slot_is_free(run: SalverRun) -> None:
    """The only slot: one more request runs."""
    assert requests.get(run.url, timeout=10).text == "ok"


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
def test_at_every_phase(run: SalverRun, tmp_path: Path, reset: bool) -> None:
    phases = {
        "wait": ("GET /wait?mark={} HTTP/1.1", b""),
        "stream": ("GET /stream?mark={} HTTP/1.1", b""),
        "flood": ("GET /flood?mark={} HTTP/1.1", b""),
        "body": ("POST /body?mark={} HTTP/1.1\r\ncontent-length: 1000000", b"x" * 100_000),
        "chunks": ("POST /body?mark={} HTTP/1.1\r\ntransfer-encoding: chunked", b"5\r\nhello\r\n"),
    }
    for phase, (head, body) in phases.items():
        mark = tmp_path / phase
        client = Leaver(run, head.format(mark), body)
        eventually(f"{phase} runs", mark.with_name(f"{phase}.started").exists)
        assert_cancelled(mark, client.leave(reset=reset))
        assert_slot_is_free(run)


def test_the_calls_of_its_request_are_cancelled_too(run: SalverRun, tmp_path: Path) -> None:
    client = Leaver(run, f"GET /child?mark={tmp_path}/m HTTP/1.1")
    eventually("the child runs", (tmp_path / "m-child.started").exists)
    assert_cancelled(tmp_path / "m-child", client.leave(reset=False))
    assert_slot_is_free(run)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
def test_a_pipelining_client_is_missed_while_reading_is_paused(run: SalverRun, tmp_path: Path, reset: bool) -> None:
    pipelined = Leaver(run, f"GET /wait?mark={tmp_path}/pipelined HTTP/1.1")
    eventually("it runs", (tmp_path / "pipelined.started").exists)
    pipelined.socket.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
    assert_cancelled(tmp_path / "pipelined", pipelined.leave(reset=reset))
    assert_slot_is_free(run)


def test_an_uploading_client_is_missed_while_nobody_reads_its_body(run: SalverRun, tmp_path: Path) -> None:
    """With a reset. A polite end comes after bytes that nobody reads: TCP does not deliver it before."""
    upload = Leaver(run, f"POST /wait?mark={tmp_path}/upload HTTP/1.1\r\ncontent-length: 30000000")
    eventually("it runs", (tmp_path / "upload.started").exists)
    upload.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while True:
            upload.socket.sendall(b"x" * 1_000_000)
    assert_cancelled(tmp_path / "upload", upload.leave(reset=True))
    assert_slot_is_free(run)


def test_one_that_waits_in_the_queue_never_starts(run: SalverRun, tmp_path: Path) -> None:
    holder = Leaver(run, f"GET /wait?mark={tmp_path}/holder HTTP/1.1")
    eventually("the slot is taken", (tmp_path / "holder.started").exists)
    queued = Leaver(run, f"GET /wait?mark={tmp_path}/queued HTTP/1.1\r\nx-request-id: queued")
    queued.leave(reset=False)  # a reset may overtake what was sent before it
    run.wait_for_output("queued -- GET /wait 499")
    holder.leave(reset=True)
    assert_slot_is_free(run)
    assert not (tmp_path / "queued.started").exists()


def test_a_request_may_ask_to_go_on(run: SalverRun, tmp_path: Path) -> None:
    mark = tmp_path / "m"
    client = Leaver(run, f"GET /goes-on?mark={mark} HTTP/1.1\r\nx-request-disconnect-disabled: ?1")
    eventually("it runs", mark.with_name("m.started").exists)
    client.leave(reset=False)
    with socket.create_connection(("127.0.0.1", run.port), 10) as waiting:  # the slot stays taken
        waiting.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        mark.with_name("m.released").touch()
        waiting.settimeout(10)
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    assert mark.with_name("m.finished").exists()


def test_499_in_the_log_and_in_the_metrics(salver_run: Start, tmp_path: Path) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})
    client = Leaver(run, f"GET /wait?mark={tmp_path}/m HTTP/1.1\r\nx-request-id: mine")
    eventually("it runs", (tmp_path / "m.started").exists)
    client.leave(reset=False)
    line = run.wait_for_output(r"INFO .* proxy \d+ (?P<id>\S+) -- GET /wait 499 [\d.]+ms: the client left")
    assert line["id"] == "mine"
    eventually("the metrics have it", lambda: "499" in json.dumps(metrics(run)))


def metrics(run: SalverRun) -> object:
    """What the control API says of them."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(10)
        control.connect(str(run.folder / "control.sock"))
        control.sendall(b"GET /api/serve/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        answer = b""
        while piece := control.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return json.loads(body)
