"""The access log: one line for each request, on the console and in the proxy's file, whatever became of it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.waiting import eventually

WITHIN_S = 20.0

APP = """
import asyncio
from salver import serve

@serve.deployment
class App:
    async def __call__(self, request):
        if request.url.path.endswith("/fails"):
            raise ValueError("no")
        if request.url.path.endswith("/hangs"):
            await asyncio.Event().wait()
        return "ok"

app = App.bind()
"""


def start(salver_run: Callable[..., SalverRun], *flags: str, env: dict[str, str] | None = None) -> SalverRun:
    arguments = ("app:app", "--port", "0", "--name", "first", "--route-prefix", "/a", *flags)
    return salver_run(*arguments, files={"app.py": APP}, env=env)


def log_of_proxy(run: SalverRun) -> str:
    return "".join(path.read_text() for path in run.runtime.glob("salver/logs/*/proxy_*.log"))


def ask(run: SalverRun, head: str) -> socket.socket:
    """Send a request head as it is."""
    client = socket.create_connection(("127.0.0.1", run.port))
    client.sendall(f"{head}\r\nhost: localhost\r\nx-request-id: mine\r\n\r\n".encode("latin-1"))
    return client


def test_each_end_of_a_request_is_a_line(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run)
    answer = get(f"{run.url}/x?key=hidden")
    assert answer.status == 200
    assert get(f"{run.url}/fails").status == 500
    assert get(f"http://127.0.0.1:{run.port}/elsewhere").status == 404
    assert get(f"http://127.0.0.1:{run.port}/-/healthz").status == 200
    with ask(run, "GET /a/hangs HTTP/1.1"):
        eventually("it runs", lambda: replica_runs(run), WITHIN_S)
    about = " application=first route=/a\n"
    when = r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} proxy \d+"
    run.wait_for_output(rf"{when} {answer.headers['x-request-id']} -- GET /a/x 200 \d+\.\dms{about}")
    run.wait_for_output(rf"{when} \S+ -- GET /a/fails 500 \d+\.\dms{about}")
    run.wait_for_output(rf"{when} \S+ -- GET /elsewhere 404 \d+\.\dms\n")
    run.wait_for_output(rf"{when} mine -- GET /a/hangs 499 \d+\.\dms: the client left{about}")
    assert "hidden" not in run.output(), "queries are where people put secrets"
    assert "healthz" not in run.output(), "who asks for our health asks every second"
    lines = [line for line in run.output().splitlines() if " proxy " in line and " -- GET " in line]
    eventually("the file has the same", lambda: log_of_proxy(run).splitlines() == lines, WITHIN_S)


def replica_runs(run: SalverRun) -> bool:
    board = next(run.folder.glob("load.board")).read_bytes()
    return any(board)


def test_what_clients_send_cannot_forge_or_break_a_line(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, "--log-format", "json")
    for path in ('/a/"\\x', "/a/%0aINFO", "/a/" + "x" * 3000):
        with ask(run, f'GET {path} HTTP/1.1\r\nx-request-id: "q\\\\"') as client:
            client.recv(65536)
    eventually("all are written", lambda: log_of_proxy(run).count("\n") == 3, WITHIN_S)
    lines: list[dict[str, Any]] = [json.loads(line) for line in log_of_proxy(run).splitlines()]
    assert lines[0]["path"] == '/a/"\\x'
    assert lines[1]["path"] == "/a/%0aINFO"
    assert lines[2]["path"] == "/a/" + "x" * 2045
    first = lines[0]
    assert first["message"].startswith('GET /a/"\\x 200 ')
    assert (first["levelname"], first["component_name"]) == ("INFO", "proxy")
    assert (first["application"], first["route"], first["status"], first["method"]) == ("first", "/a", 200, "GET")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", first["asctime"])


def test_a_websocket_is_a_line_when_it_is_closed(salver_run: Callable[..., SalverRun]) -> None:
    client = pytest.importorskip("websockets.sync.client")
    source = """
from fastapi import FastAPI, WebSocket
from salver import serve
api = FastAPI()

@serve.deployment
@serve.ingress(api)
class App:
    @api.websocket("/chat")
    async def chat(self, socket: WebSocket):
        await socket.accept()
        await socket.receive_text()
        await socket.close()

app = App.bind()
"""
    run = salver_run("app:app", "--port", "0", files={"app.py": source})
    with client.connect(f"ws://127.0.0.1:{run.port}/chat?key=hidden") as socket_:
        assert " /chat " not in run.output()
        socket_.send("end")
        with pytest.raises(Exception, match="1000"):
            socket_.recv(timeout=WITHIN_S)
    run.wait_for_output(r"-- GET /chat 101 \d+\.\dms application=default route=/\n")


def test_clients_are_shown_where_that_is_asked_for(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, env={"RAY_SERVE_LOG_CLIENT_ADDRESS": "1"})
    get(run.url)
    run.wait_for_output(r"GET /a 200 \d+\.\dms application=first route=/a client=127\.0\.0\.1:\d+\n")


def test_it_can_be_switched_off(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, "--no-access-log")
    get(run.url)
    run.interrupt()
    run.wait(60)
    assert "GET" not in run.output()
    assert not list(run.runtime.glob("salver/logs/*/proxy_*.log"))


def test_calls_are_lines_of_replicas_at_debug_level(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    source = """
from salver import serve

@serve.deployment(logging_config={"log_level": "DEBUG"})
class Child:
    def shout(self, text):
        if not text:
            raise ValueError
        return text.upper()

@serve.deployment
class Parent:
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        try:
            return await self.child.shout.remote(request.query_params["text"])
        except ValueError:
            return "none"

app = Parent.bind(Child.bind())
"""
    run = salver_run("app:app", "--port", "0", files={"app.py": source})
    answer = get(f"{run.url}?text=a")
    run.wait_for_output(
        rf"DEBUG \S+ \S+ replica default#Child#\S+ {answer.headers['x-request-id']} -- CALL shout OK \d+\.\dms\n"
    )
    get(f"{run.url}?text=")
    run.wait_for_output(r"-- CALL shout ERROR \d+\.\dms\n")
