"""SIGKILL a replica that runs requests: an idempotent deployment loses none, any other loses those and no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from harness.http import Answer, get_later
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually

SLOTS = 5
WITHIN_S = 30.0

HELD = """
import asyncio, os
from pathlib import Path
from salver import serve

@serve.deployment(num_replicas=2, max_ongoing_requests=SLOTS, idempotent=IDEMPOTENT)
class Held:
    async def __call__(self, request):
        ran = Path(f"{request.query_params['id']}.ran")
        with ran.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        return str(os.getpid())

app = Held.bind()
"""

SHORT = """
import asyncio
from salver import serve

@serve.deployment(num_replicas=2, max_ongoing_requests=SLOTS, idempotent=True)
async def short(request):
    await asyncio.sleep(0.02)
    return "done"

app = short.bind()
"""


def start(salver_run: Callable[..., SalverRun], source: str, *, idempotent: bool = True) -> SalverRun:
    source = source.replace("SLOTS", str(SLOTS)).replace("IDEMPOTENT", str(idempotent))
    return salver_run("calls:app", "--port", "0", files={"calls.py": source})


def ran(run: SalverRun, number: int) -> list[int]:
    """The replicas that request was started on, in order."""
    marker = run.cwd / f"{number}.ran"
    return [int(line) for line in marker.read_text().split()] if marker.exists() else []


def kill_one_of_two_that_are_full(run: SalverRun) -> tuple[int, list[int], list[Future[Answer]]]:
    """Fill both replicas, with two requests more in the queue, and kill one: its pid, what it ran, all answers."""
    answers = [get_later(f"{run.url}?id={number}") for number in range(2 * SLOTS + 2)]

    def running() -> list[int]:
        return [number for number in range(len(answers)) if ran(run, number)]

    eventually("both replicas are full", lambda: len(running()) == 2 * SLOTS, WITHIN_S)
    dead = ran(run, running()[0])[0]
    lost = [number for number in running() if ran(run, number) == [dead]]
    assert len(lost) == SLOTS
    os.kill(dead, signal.SIGKILL)
    return dead, lost, answers


def test_an_idempotent_deployment_loses_nothing(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, HELD)
    dead, lost, answers = kill_one_of_two_that_are_full(run)
    (run.cwd / "go").touch()
    results = [answer.result(WITHIN_S) for answer in answers]
    assert {each.status for each in results} == {200}, results
    assert str(dead) not in {each.body for each in results}
    for number, each in enumerate(results):
        assert len(ran(run, number)) == (2 if number in lost else 1)
        assert each.headers.get("x-attempts") == ("2" if number in lost else None)


def test_any_other_deployment_loses_exactly_what_ran(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, HELD, idempotent=False)
    _, lost, answers = kill_one_of_two_that_are_full(run)
    assert [answers[number].result(WITHIN_S).status for number in lost] == [502] * SLOTS
    (run.cwd / "go").touch()
    for number, answer in enumerate(answers):
        assert answer.result(WITHIN_S).status == (502 if number in lost else 200)
        assert len(ran(run, number)) == 1, "nothing runs twice"


def test_no_request_fails_while_replicas_are_killed_one_after_the_other(
    salver_run: Callable[..., SalverRun],
) -> None:
    run = start(salver_run, SHORT)
    with ConstantLoad(run.url, rate=100) as load:
        for _ in range(3):
            load.wait_for(50, WITHIN_S)
            dead = run.pids()["replica"][0]
            os.kill(dead, signal.SIGKILL)
            eventually("the replica is replaced", partial(_is_replaced, run, dead), WITHIN_S)
        load.wait_for(50, WITHIN_S)
    assert load.failures() == []


def _is_replaced(run: SalverRun, dead: int) -> bool:
    replicas = run.status()["applications"]["default"]["deployments"]["short"]["replicas"]
    running = {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}
    return len(running) == 2 and dead not in running


FAILS = """
import os
from pathlib import Path
from salver import serve

@serve.deployment(num_replicas=2, idempotent=True)
async def fails(request):
    number = request.query_params["id"]
    with Path(f"{number}.ran").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if number == POISON:
        os._exit(1)
    raise ValueError("not today")

app = fails.bind()
"""


def test_what_user_code_refuses_is_not_tried_again(salver_run: Callable[..., SalverRun]) -> None:
    """Retries must not multiply the load of a deployment that fails everything."""
    run = start(salver_run, FAILS.replace("POISON", "None"))
    answers = [get_later(f"{run.url}?id={number}") for number in range(40)]
    assert {answer.result(WITHIN_S).status for answer in answers} == {500}
    assert [len(ran(run, number)) for number in range(40)] == [1] * 40


def test_a_request_that_kills_its_replica_kills_three_at_most(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, FAILS.replace("POISON", '"0"'))
    assert get_later(f"{run.url}?id=0").result(WITHIN_S).status == 502
    killed = ran(run, 0)
    assert len(killed) == len(set(killed)) == 3
    assert get_later(f"{run.url}?id=1").result(WITHIN_S).status == 500, "replicas are there again"
