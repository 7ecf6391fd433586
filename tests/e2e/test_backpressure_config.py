"""What clients hear of a full queue, as the deployment says; and ``user_config``, which reaches ``reconfigure``."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import eventually

Start = Callable[..., SalverRun]

APP = """
import asyncio
from pathlib import Path

from salver import serve

OPTIONS = dict(max_ongoing_requests=1, max_queued_requests=1, BACKPRESSURE)

async def wait(mark):
    Path(mark + ".started").touch()
    await asyncio.Event().wait()

@serve.deployment(**OPTIONS)
class Work:
    async def __call__(self, request):
        await wait(request.query_params["mark"])

    async def wait(self, mark):
        await wait(mark)

@serve.deployment(max_ongoing_requests=100)
class Front:
    def __init__(self, work):
        self.work = work

    async def __call__(self, request):
        await self.work.wait.remote(request.query_params["mark"])

direct = Work.bind()
behind = Front.bind(Work.bind())
"""

FULL = "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1)."


@pytest.fixture
def full(salver_run: Start, tmp_path: Path) -> object:
    """``full("direct", options)``: an application whose slot and queue are taken."""
    clients: list[socket.socket] = []

    def start(app: str, backpressure: str) -> SalverRun:
        options = f"backpressure_config={backpressure}" if backpressure else ""
        run = salver_run(f"app:{app}", "--port", "0", files={"app.py": APP.replace("BACKPRESSURE", options)})
        for number in range(3):
            client = socket.create_connection(("127.0.0.1", run.port), 10)
            clients.append(client)
            client.sendall(f"GET /?mark={tmp_path}/{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            if not number:
                eventually("the slot is taken", (tmp_path / "0.started").exists)
        eventually("one of two waits, and one is refused", lambda: select.select(clients[1:], [], [], 0.0)[0])
        return run

    yield start
    for client in clients:
        client.close()


def get(run: SalverRun, folder: Path, **headers: str) -> requests.Response:
    """One more request."""
    return requests.get(f"{run.url}?mark={folder}/other", headers=headers, timeout=30)


@pytest.mark.parametrize("app", ["direct", "behind"])
@pytest.mark.parametrize(
    ("configured", "status", "retry_after"),
    [
        ("", 503, "1"),
        ("{'status_code': 429}", 429, None),
        ("{'status_code': 429, 'retry_after_s': 1.2}", 429, "2"),
        ("{'retry_after_s': 30}", 503, "30"),
    ],
)
def test_status_and_retry_after(
    full: Callable[[str, str], SalverRun],
    tmp_path: Path,
    app: str,
    configured: str,
    status: int,
    retry_after: str | None,
) -> None:
    """In the proxy's queue, and in the queue of a handle whose caller lets the error out."""
    run = full(app, configured)
    answer = get(run, tmp_path)
    assert (answer.status_code, answer.text, answer.headers.get("retry-after")) == (status, FULL, retry_after)
    document = get(run, tmp_path, accept="application/json").json()
    assert (document["status"], document["detail"], document["type"]) == (
        status,
        FULL,
        "urn:salver:problem:overloaded",
    )


CONFIGURED = """
import asyncio

from salver import serve

@serve.deployment(user_config={"threshold": 0.5})
class Model:
    def reconfigure(self, config):
        self.threshold = config["threshold"]

    def __call__(self):
        return self.threshold

@serve.deployment(user_config={"threshold": 0.7})
class AsyncModel(Model.func_or_class):
    async def reconfigure(self, config):
        await asyncio.sleep(0)
        self.threshold = config["threshold"]

@serve.deployment(user_config={"thresh": 0.7})
class Wrong(Model.func_or_class):
    pass

model, async_model, wrong = Model.bind(), AsyncModel.bind(), Wrong.bind()
"""


@pytest.mark.parametrize(("app", "threshold"), [("model", 0.5), ("async_model", 0.7)])
def test_user_config_comes_before_the_first_request(salver_run: Start, app: str, threshold: float) -> None:
    run = salver_run(f"app:{app}", "--port", "0", files={"app.py": CONFIGURED})
    assert requests.get(run.url, timeout=10).json() == threshold


def test_a_failing_reconfigure_fails_the_deployment(salver_run: Start) -> None:
    run = salver_run("app:wrong", "--port", "0", files={"app.py": CONFIGURED}, wait_ready=False)
    assert run.wait(30) == 1
    assert "KeyError: 'threshold'" in run.output()
