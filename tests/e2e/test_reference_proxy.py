"""What users of Ray Serve know of its proxy, one instance for each test: see docs/reference-coverage.md."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import requests

from harness.http import get_later
from harness.instance import SalverRun
from harness.waiting import eventually

WITHIN_S = 30.0


def test_a_timeout_below_zero_is_none(salver_run: Callable[..., SalverRun]) -> None:
    source = """
import asyncio
from salver import serve

@serve.deployment
async def slow():
    await asyncio.sleep(1.5)
    return "done"

app = slow.bind()
"""
    run = salver_run("slow:app", "--port", "0", "--request-timeout", "0.5", files={"slow.py": source})
    for value, status in (("-1", 200), ("0", 200), ("0.2", 504)):
        answer = requests.get(run.url, headers={"x-request-timeout-seconds": value}, timeout=WITHIN_S)
        assert answer.status_code == status, value


def test_what_healthz_says(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    source = """
import threading
import time
from pathlib import Path
import requests
from salver import serve

@serve.deployment
class Slow:
    def __init__(self, go):
        while not Path(go).exists():
            time.sleep(0.01)

    def __call__(self):
        return "ready"

def health():
    answer = requests.get(serve.status().instance.url + "-/healthz", timeout=30)
    return answer.status_code, answer.text

def wait_for(text):
    deadline = time.monotonic() + 30
    while health()[1] != text and time.monotonic() < deadline:
        time.sleep(0.01)
    print(*health())

serve.start(http_options={"port": 0})
print(*health())
deploying = threading.Thread(target=serve.run, args=(Slow.bind(str(Path("go").absolute())),))
deploying.start()
wait_for("No replicas are available yet.")
Path("go").touch()
wait_for("success")
deploying.join()
"""
    answer = run_python(source)
    assert answer.stdout.splitlines() == [
        "503 Route table is not populated yet.",
        "503 No replicas are available yet.",
        "200 success",
    ], answer.stderr


def test_healthz_while_the_instance_ends(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    """To whoever is connected and in the middle of asking: new connections are refused."""
    source = """
import asyncio
from pathlib import Path
from salver import serve

@serve.deployment
async def held(request):
    mark = request.query_params["mark"]
    Path(mark + ".began").touch()
    while not Path(mark).exists():
        await asyncio.sleep(0.01)

app = held.bind()
"""
    run = salver_run("held:app", "--port", "0", files={"held.py": source})
    mark = tmp_path / "mark"
    held = get_later(f"{run.url}?mark={mark}")
    eventually("a request runs", (tmp_path / "mark.began").exists, WITHIN_S)
    with socket.create_connection(("127.0.0.1", run.port), WITHIN_S) as asking:
        asking.sendall(b"GET /-/routes HTTP/1.1\r\nhost: a\r\n\r\n")
        assert asking.recv(65536).startswith(b"HTTP/1.1 200 "), "it has been accepted"
        asking.sendall(b"GET /-/healthz HTTP/1.1\r\nhost: a\r\n")
        run.interrupt()
        eventually("new connections are refused", lambda: not accepts(run), WITHIN_S)
        asking.sendall(b"\r\n")
        answer = asking.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert answer.endswith(b"\r\n\r\nThis node is being drained.")
    mark.touch()
    assert held.result(WITHIN_S).status == 200
    assert run.wait(WITHIN_S) == 0


def accepts(run: SalverRun) -> bool:
    try:
        socket.create_connection(("127.0.0.1", run.port), 1).close()
    except ConnectionRefusedError:
        return False
    return True
