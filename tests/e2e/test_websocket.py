"""WebSockets through a whole instance, with a client library that checks every byte."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from harness.descriptors import descriptors, wait_for_no_more_than
from harness.http import get
from harness.instance import SalverRun
from harness.waiting import Patience

WITHIN_S = 20.0

SOURCE = """
import asyncio, os
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from salver import serve

api = FastAPI()

@serve.deployment(max_ongoing_requests=SLOTS, max_queued_requests=1)
@serve.ingress(api)
class Talk:
    def __init__(self):
        self.sent = 0

    @api.websocket("/echo")
    async def echo(self, websocket: WebSocket):
        await websocket.accept()
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                print(f"left with {message['code']} {message['reason']!r}", flush=True)
                return
            await websocket.send({**message, "type": "websocket.send"})

    @api.websocket("/pid")
    async def pid(self, websocket: WebSocket):
        offered = websocket.scope["subprotocols"]
        await websocket.accept(offered[-1] if offered else None)
        await websocket.send_json({"pid": os.getpid(), "path": websocket.url.path})
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as end:
            print(f"pid left with {end.code}", flush=True)

    @api.websocket("/count/{last}")
    async def count(self, websocket: WebSocket, last: int):
        await websocket.accept()
        for number in range(last):
            await websocket.send_text(str(number))
            await asyncio.sleep(0)
        await websocket.close(4321, "counted")

    @api.websocket("/flood")
    async def flood(self, websocket: WebSocket):
        await websocket.accept()
        self.sent = 0
        while True:
            await websocket.send_bytes(bytes(65536))
            self.sent += 1

    @api.get("/sent")
    async def how_many(self) -> int:
        return self.sent

    @api.websocket("/private")
    async def private(self, websocket: WebSocket):
        await websocket.close()

    @api.websocket("/raises")
    async def raises(self, websocket: WebSocket):
        await websocket.accept()
        raise ValueError("the reason is for the log")

app = Talk.bind()
"""

Start = Callable[..., SalverRun]


@pytest.fixture
def talk(salver_run: Start) -> Start:
    def start(*argv: str, slots: int = 100) -> SalverRun:
        source = SOURCE.replace("SLOTS", str(slots))
        return salver_run("talk:app", "--port", "0", *argv, files={"talk.py": source})

    return start


def dial(run: SalverRun, path: str, **options: Any) -> ClientConnection:
    return connect(run.url.replace("http", "ws", 1) + path, open_timeout=WITHIN_S, **options)


def handshake(path: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
    head = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n"
    return head.encode()


def close_of(client: ClientConnection) -> tuple[int, str]:
    """How the server closes."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=WITHIN_S)
    assert closed.value.rcvd is not None, closed.value
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_text_bytes_and_the_client_s_close(talk: Start) -> None:
    run = talk()
    with dial(run, "echo", max_size=None) as client:
        assert client.response is not None
        assert len(client.response.headers["x-request-id"]) == 36
        for message in ("grüß", b"\0\1\2", "", "x" * 300_000, os.urandom(3_000_000)):
            client.send(message)
            assert client.recv(timeout=WITHIN_S) == message
        client.close(3333, "had enough")
    run.wait_for_output("left with 3333 'had enough'")


def test_subprotocol_and_route_prefix(talk: Start) -> None:
    run = talk("--route-prefix", "/talk")
    assert run.url.endswith("/talk")
    run.url += "/"
    with dial(run, "pid", subprotocols=[Subprotocol("a"), Subprotocol("b")]) as client:
        assert client.subprotocol == "b"
        assert '"path":"/talk/pid"' in client.recv(timeout=WITHIN_S)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{run.port}/elsewhere", open_timeout=WITHIN_S)
    assert refused.value.response.status_code == 404


def test_the_server_speaks_and_closes(talk: Start) -> None:
    run = talk()
    with dial(run, "count/500") as client:
        assert [client.recv(timeout=WITHIN_S) for _ in range(500)] == [str(number) for number in range(500)]
        assert close_of(client) == (4321, "counted")
    with dial(run, "raises") as client:
        assert close_of(client) == (1011, "")
    run.wait_for_output("ValueError: the reason is for the log")


def test_refused_before_it_is_accepted(talk: Start) -> None:
    run = talk()
    for path in ("private", "no-such-route"):
        with pytest.raises(InvalidStatus) as refused:
            dial(run, path)
        assert refused.value.response.status_code == 403


def test_two_at_once(talk: Start) -> None:
    run = talk()
    with dial(run, "echo") as first, dial(run, "echo") as second:
        for number in range(100):
            first.send(f"first {number}")
            second.send(f"second {number}")
        for number in range(100):
            assert second.recv(timeout=WITHIN_S) == f"second {number}"
            assert first.recv(timeout=WITHIN_S) == f"first {number}"


def test_a_killed_replica(talk: Start) -> None:
    run = talk()
    with dial(run, "pid") as client:
        client.recv(timeout=WITHIN_S)
        os.kill(run.pids()["replica"][0], signal.SIGKILL)
        assert close_of(client)[0] == 1011


def test_a_killed_proxy(talk: Start) -> None:
    """Its clients' applications hear that they are gone."""
    run = talk()
    with dial(run, "pid") as client:
        client.recv(timeout=WITHIN_S)
        os.kill(run.pids()["proxy"][0], signal.SIGKILL)
        run.wait_for_output("pid left with 1006")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_instance_is_stopped(talk: Start, number: int) -> None:
    """An open WebSocket does not hold it up: there is no end to wait for."""
    run = talk()
    everything = run.processes()
    with dial(run, "pid") as client:
        client.recv(timeout=WITHIN_S)
        within = Patience(10)
        os.kill(run.cli_pid, number)
        assert close_of(client)[0] == 1012
    run.wait(within)
    run.assert_gone(everything, WITHIN_S)


def test_no_free_slot(talk: Start) -> None:
    """One runs, one waits, and the next one hears that it should come again later."""
    run = talk(slots=1)
    with dial(run, "pid") as running, socket.create_connection(("127.0.0.1", run.port), WITHIN_S) as waiting:
        running.recv(timeout=WITHIN_S)
        waiting.sendall(handshake("/pid"))
        with dial(run, "pid") as refused:
            code, reason = close_of(refused)
        assert code == 1013
        assert "backpressure" in reason
        running.close()
        assert waiting.recv(12) == b"HTTP/1.1 101"


def test_a_client_that_does_not_read_costs_the_proxy_nothing(talk: Start) -> None:
    run = talk()
    (proxy,) = run.pids()["proxy"]
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    plain.connect(("127.0.0.1", run.port))
    with plain:
        plain.sendall(handshake("/flood"))
        assert plain.recv(12) == b"HTTP/1.1 101"
        before = psutil.Process(proxy).memory_info().rss
        sent = [-1, -2]
        while len(set(sent[-5:])) > 1 or not sent[-1]:  # until the application is stopped
            time.sleep(0.1)
            sent.append(_sent(run))
        assert psutil.Process(proxy).memory_info().rss - before < 4 * 1024 * 1024
        held = sent[-1] * 65536
        read = 0
        while read < held + 20 * 1024 * 1024:  # it goes on as soon as somebody reads
            read += len(plain.recv(1024 * 1024))
        assert psutil.Process(proxy).memory_info().rss - before < 8 * 1024 * 1024


def _sent(run: SalverRun) -> int:
    return int(get(f"{run.url}sent").body)


def test_clients_that_come_and_go_leave_nothing(talk: Start) -> None:
    run = talk(slots=5)

    with dial(run, "echo") as client:
        client.send("warm")
        client.recv(timeout=WITHIN_S)
    _sent(run)
    before = descriptors(run)
    for number in range(60):
        with dial(run, "echo") as client:  # waits for a slot when the clients before have just left
            client.send("x")
            assert client.recv(timeout=WITHIN_S) == "x"
            if number % 3 == 0:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                client.socket.shutdown(socket.SHUT_RDWR)  # without a close
    wait_for_no_more_than(run, before)
