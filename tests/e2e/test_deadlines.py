"""Deadlines: whoever is late, the client hears of it in time and nothing runs on for it."""

from __future__ import annotations

import socket
import time
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
from salver.serve.context import _get_serve_request_context

class Marks:
    async def wait(self, mark):
        Path(mark + ".started").touch()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            Path(mark + ".cancelled").touch()
            raise

@serve.deployment(max_ongoing_requests=1)
class Child(Marks):
    async def __call__(self, mark):
        await self.wait(mark)

    def remaining(self):
        import time
        deadline = _get_serve_request_context().deadline
        return None if deadline is None else deadline - time.monotonic()

@serve.deployment(max_ongoing_requests=ONGOING)
class Root(Marks):
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        what, mark = request.url.path.rsplit("/", 1)[-1], request.query_params.get("mark")
        if what == "wait":
            await self.wait(mark)
        if what == "child":
            await self.child.remote(mark)
        if what == "forgotten":
            self.child.remote(mark)
            await self.wait(mark + "-root")
        if what == "remaining":
            return str(await self.child.remaining.remote())
        if what == "stream":
            return self.stream(mark)
        return "ok"

    async def stream(self, mark):
        yield "first"
        await self.wait(mark)

app = Root.bind(Child.bind())
"""


@pytest.fixture(scope="module")
def shared(module_run: Start) -> SalverRun:
    """For the tests that leave it as it was."""
    return module_run("app:app", files=app())


def app(ongoing: int = 100) -> dict[str, str]:
    return {"app.py": APP.replace("ONGOING", str(ongoing))}


def get(run: SalverRun, path: str, timeout_s: float | None = None, **headers: str) -> requests.Response:
    if timeout_s is not None:
        headers["x-request-timeout-seconds"] = str(timeout_s)
    return requests.get(f"{run.url}{path}", headers=headers, timeout=30)


def expires(run: SalverRun, path: str, mark: Path, **headers: str) -> tuple[requests.Response, float]:
    """The answer to a request whose user code ran when its time was over, and the deadline that this took."""
    timeout_s = 0.5
    while True:
        answer = get(run, f"{path}?mark={mark}", timeout_s, **headers)
        if marked(mark, "started").exists():
            return answer, timeout_s
        timeout_s *= 2  # a starved machine had not come to it


def marked(mark: Path, what: str) -> Path:
    return mark.with_name(f"{mark.name}.{what}")


def test_a_client_sets_its_deadline(shared: SalverRun, tmp_path: Path) -> None:
    began = time.monotonic()
    answer, timeout_s = expires(shared, "wait", tmp_path / "m", **{"x-request-id": "mine"})
    assert (answer.status_code, answer.text) == (504, f"Request mine timed out after {timeout_s:g}s.")
    assert 0.4 < time.monotonic() - began < 10 * timeout_s
    eventually("user code was cancelled", marked(tmp_path / "m", "cancelled").exists)
    assert get(shared, "", 30).text == "ok"


def test_the_deadline_of_the_instance_and_a_client_that_waives_it(salver_run: Start, tmp_path: Path) -> None:
    run = salver_run("app:app", "--port", "0", "--request-timeout", "0.5", "--timeout-status", "408", files=app())
    assert get(run, f"wait?mark={tmp_path}/m").status_code == 408
    mark = tmp_path / "waived"
    with socket.create_connection(("127.0.0.1", run.port), 10) as client:
        text = f"GET /wait?mark={mark} HTTP/1.1\r\nhost: a\r\nx-request-timeout-seconds: 0\r\n\r\n"
        client.sendall(text.encode())
        eventually("it runs", marked(mark, "started").exists)
        client.settimeout(1.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
    eventually("its end cancels the request", marked(mark, "cancelled").exists)


@pytest.mark.parametrize("value", ["soon", "nan", "1 s"])
def test_a_deadline_that_is_no_number_is_the_clients_error(shared: SalverRun, value: str) -> None:
    answer = get(shared, "", **{"x-request-timeout-seconds": value})
    assert (answer.status_code, answer.text.strip()) == (400, "x-request-timeout-seconds is not a number")


def test_what_remains_travels_to_child_calls(shared: SalverRun) -> None:
    assert 10 < float(get(shared, "remaining", 20).text) <= 20
    assert get(shared, "remaining").text == "None"


def test_expiry_cancels_child_calls(shared: SalverRun, tmp_path: Path) -> None:
    """The one that is awaited, and the one that nobody awaits."""
    assert expires(shared, "child", tmp_path / "awaited")[0].status_code == 504
    eventually("the child was cancelled", marked(tmp_path / "awaited", "cancelled").exists)
    assert expires(shared, "forgotten", tmp_path / "forgotten")[0].status_code == 504
    eventually("the forgotten child was cancelled", marked(tmp_path / "forgotten", "cancelled").exists)


def test_a_request_that_waits_in_the_queue_expires_there(salver_run: Start, tmp_path: Path) -> None:
    """And never starts, also when a slot frees later."""
    run = salver_run("app:app", "--port", "0", files=app(ongoing=1))
    with socket.create_connection(("127.0.0.1", run.port), 10) as holder:
        holder.sendall(f"GET /wait?mark={tmp_path}/holder HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        eventually("the slot is taken", marked(tmp_path / "holder", "started").exists)
        assert get(run, f"wait?mark={tmp_path}/queued", 0.5).status_code == 504
    eventually("the slot is free", lambda: get(run, "").text == "ok")
    assert not marked(tmp_path / "queued", "started").exists()


def test_a_stream_that_takes_too_long_is_cut(shared: SalverRun, tmp_path: Path) -> None:
    headers = {"x-request-timeout-seconds": "2"}
    with requests.get(f"{shared.url}stream?mark={tmp_path}/m", headers=headers, stream=True, timeout=30) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_content(None)
        assert next(pieces) == b"first"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(pieces)
    eventually("the generator was cancelled", marked(tmp_path / "m", "cancelled").exists)


def test_a_problem_document_for_those_who_accept_it(shared: SalverRun, tmp_path: Path) -> None:
    answer = get(
        shared, f"wait?mark={tmp_path}/m", 0.3, accept="application/problem+json", **{"x-request-id": "mine"}
    )
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:salver:problem:timeout",
        "title": "Gateway Timeout",
        "status": 504,
        "detail": "Request mine timed out after 0.3s.",
        "request_id": "mine",
    }


def test_applications_of_ray_get_rays_408(salver_run: Start, tmp_path: Path) -> None:
    files = {"app.py": app()["app.py"].replace("from salver", "from ray")}
    run = salver_run("app:app", "--port", "0", "--compat", files=files)
    assert get(run, f"wait?mark={tmp_path}/m", 0.3).status_code == 408
