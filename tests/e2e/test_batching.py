"""``serve.batch`` in real replicas: requests that meet, how many there may be, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from harness.http import Answer, get, get_later
from harness.instance import SalverRun
from harness.waiting import eventually
from salver import serve

WITHIN_S = 60.0
NEVER_S = 3600.0
"""A wait that no test lives to see the end of: what closes a batch is something else."""
EXAMPLES = Path(__file__).parents[2] / "examples"

APP = """
from starlette.requests import Request
from salver import serve

@serve.deployment(OPTIONS)
class Model:
    @serve.batch(max_batch_size=SIZE, batch_wait_timeout_s=WAIT)
    async def predict(self, names: list[str]) -> list[str]:
        return [f"{name} of {len(names)}" for name in names]

    async def __call__(self, request: Request) -> str:
        return await self.predict(request.query_params["name"])

app = Model.bind()
"""


def source(*, options: str = "", size: int, wait_s: float = NEVER_S) -> dict[str, str]:
    return {"app.py": APP.replace("OPTIONS", options).replace("SIZE", str(size)).replace("WAIT", str(wait_s))}


def ask(run: SalverRun, names: range) -> set[str]:
    answers = [get_later(f"{run.url}?name={name}", timeout=WITHIN_S) for name in names]
    return {answer.result(WITHIN_S).body for answer in answers}


def test_requests_meet_and_there_may_be_as_many_as_a_batch_takes(salver_run: Callable[..., SalverRun]) -> None:
    """With the default of 5 requests at a time, twelve would never meet."""
    run = salver_run("app:app", "--port", "0", files=source(size=12))
    assert ask(run, range(24)) == {f"{name} of 12" for name in range(24)}
    (application,) = run.status()["applications"].values()
    (deployment,) = application["deployments"].values()
    assert deployment["options"]["max_ongoing_requests"] == 24
    assert "max_ongoing_requests" not in run.output()


def test_the_deploy_warns_of_batches_that_never_fill(salver_run: Callable[..., SalverRun]) -> None:
    files = source(options="max_ongoing_requests=4", size=12, wait_s=0.05)
    run = salver_run("app:app", "--port", "0", files=files)
    run.wait_for_output(
        r"Deployment default#Model: max_ongoing_requests=4 is too low for the batches of predict "
        r".*Set max_ongoing_requests to at least 12, or leave it out"
    )
    assert len(ask(run, range(8))) == 8


def test_a_batch_does_not_wait_until_its_requests_have_timed_out(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", "--request-timeout", "6", files=source(size=12))
    assert ask(run, range(1)) == {"0 of 1"}


def test_the_example(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": (EXAMPLES / "batching" / "app.py").read_text()})

    def score(text: str) -> dict[str, int]:
        return requests.post(run.url, data=text, timeout=WITHIN_S).json()

    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(score, ["a great day", "slow and ugly", "nothing"] * 8))
    assert [each["score"] for each in scores] == [1, -2, 0] * 8
    assert max(each["scored_together"] for each in scores) > 1


def test_code_of_a_script_is_batched_too(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """It travels by value."""
    script = """
from salver import serve

@serve.deployment
class Model:
    def reconfigure(self, user_config):
        self.predict.set_max_batch_size(user_config["size"])

    @serve.batch(max_batch_size=100, batch_wait_timeout_s=3600)
    async def predict(self, items):
        return [(item, len(items)) for item in items]

serve.start(http_options={"port": 0})
handle = serve.run(Model.options(user_config={"size": 3}).bind())
calls = [handle.predict.remote(number) for number in range(3)]
print(sorted(call.result(timeout_s=60) for call in calls))
serve.shutdown()
"""
    done = run_python(script)
    assert done.stdout.splitlines()[-1] == "[(0, 3), (1, 3), (2, 3)]", done.stderr


@serve.deployment
class Waiting:
    """Batches that time alone does not close."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.executed: list[list[str]] = []
        self.came = 0
        self.gone = 0

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=NEVER_S)
    async def collect(self, names: list[str]) -> list[str]:
        self.executed.append(names)
        return [f"{name} {self.version} {len(names)}" for name in names]

    async def __call__(self, request: Any) -> str:
        self.came += 1
        try:
            return await self.collect(request.query_params["name"])
        except asyncio.CancelledError:
            self.gone += 1
            raise

    def how_many_came(self) -> int:
        return self.came

    def how_many_are_gone(self) -> int:
        return self.gone

    def history(self) -> list[list[str]]:
        return self.executed


def test_a_replica_that_leaves_closes_its_batches(instance_url: str) -> None:
    handle = serve.run(Waiting.bind("old"))
    held = [handle.collect.remote(name) for name in ("a", "b")]
    handle.history.remote().result(timeout_s=WITHIN_S)  # a call that was sent after them has been answered
    serve.run(Waiting.bind("new"))
    assert {call.result(timeout_s=WITHIN_S) for call in held} == {"a old 2", "b old 2"}


def test_a_client_that_leaves_is_not_executed(instance_url: str) -> None:
    handle = serve.run(Waiting.bind("v"))
    with socket.create_connection(("127.0.0.1", urlsplit(instance_url).port or 0), WITHIN_S) as client:
        client.sendall(b"GET /?name=gone HTTP/1.1\r\nhost: a\r\n\r\n")
        eventually("it waits", lambda: handle.how_many_came.remote().result(timeout_s=WITHIN_S) == 1, WITHIN_S)
    eventually("it is gone", lambda: handle.how_many_are_gone.remote().result(timeout_s=WITHIN_S) == 1, WITHIN_S)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda name: get(f"{instance_url}?name={name}", timeout=WITHIN_S).body, "abc"))
    assert answers == ["a v 3", "b v 3", "c v 3"]
    assert [sorted(batch) for batch in handle.history.remote().result(timeout_s=WITHIN_S)] == [["a", "b", "c"]]


@serve.deployment
class Dying:
    @serve.batch(max_batch_size=8, batch_wait_timeout_s=NEVER_S)
    async def __call__(self, received: list[Any]) -> list[str]:
        os.kill(os.getpid(), signal.SIGKILL)
        return ["never"] * len(received)


def test_every_request_of_a_batch_hears_that_its_replica_died(instance_url: str) -> None:
    serve.run(Dying.bind())
    answers: list[Answer] = [each.result(WITHIN_S) for each in [get_later(instance_url) for _ in range(8)]]
    assert [answer.status for answer in answers] == [502] * 8
    eventually("the replica is replaced", is_running, WITHIN_S)


def is_running() -> bool:
    return serve.status().applications["default"].status == "RUNNING"


@serve.deployment
class Streaming:
    @serve.batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def count(self, lengths: list[int]) -> Any:
        for step in range(max(lengths)):
            yield [f"{step} " if step < length else StopIteration for length in lengths]

    async def __call__(self, request: Any) -> Any:
        return self.count(int(request.query_params["length"]))


def test_streams_of_one_batch(instance_url: str) -> None:
    serve.run(Streaming.bind())
    answers = [get_later(f"{instance_url}?length={length}") for length in (2, 4)]
    assert [answer.result(WITHIN_S).body for answer in answers] == ["0 1 ", "0 1 2 3 "]


@serve.deployment
class Multiplexed:
    @serve.batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def __call__(self, received: list[Any]) -> list[str]:
        return [f"{serve.get_multiplexed_model_id()} {len(received)}"] * len(received)


def test_batches_are_of_one_model(instance_url: str) -> None:
    serve.run(Multiplexed.bind())

    def ask_model(model_id: str) -> str:
        headers = {"serve_multiplexed_model_id": model_id}
        return requests.get(instance_url, headers=headers, timeout=WITHIN_S).text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask_model, ["x", "y", "x", "y"])) == ["x 2", "y 2", "x 2", "y 2"]
