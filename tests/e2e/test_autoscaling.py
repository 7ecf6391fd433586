"""The number of replicas follows the load: with real processes, a real proxy, and short delays."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.http import Answer, get, get_later
from harness.instance import SalverRun
from harness.processes import descendants, title
from harness.waiting import eventually

WITHIN_S = 30.0
HELD_S = 100.0

APPLICATION = """
import asyncio, os
from salver import serve

SETTINGS = dict(
    max_replicas=3, target_ongoing_requests=1, look_back_period_s=1, upscale_delay_s=0.3, downscale_delay_s=1
)

@serve.deployment(max_ongoing_requests=4, autoscaling_config={**SETTINGS, **MORE})
class Worker:
    def __init__(self):
        with open("constructed", "a") as file:
            file.write("x")

    async def __call__(self, request):
        return await self.hold(request.query_params.get("until"), float(request.query_params.get("s", "0")))

    async def hold(self, until, seconds):
        await asyncio.sleep(seconds)
        while until and not os.path.exists(until):
            await asyncio.sleep(0.01)
        return os.getpid()

app = Worker.bind()
"""


def application(**more: Any) -> dict[str, str]:
    return {"app.py": APPLICATION.replace("MORE", repr(more))}


def worker(run: SalverRun, deployment: str = "Worker") -> dict[str, Any]:
    return run.status()["applications"]["default"]["deployments"][deployment]


def replicas(run: SalverRun, deployment: str = "Worker") -> int:
    return worker(run, deployment)["replica_states"].get("RUNNING", 0)


def until_there_are(run: SalverRun, count: int, deployment: str = "Worker") -> None:
    eventually(f"{count} replicas", lambda: replicas(run, deployment) == count, WITHIN_S)


def constructed(run: SalverRun) -> int:
    path = run.cwd / "constructed"
    return len(path.read_text()) if path.exists() else 0


def policy_processes(run: SalverRun) -> list[int]:
    return [pid for pid in descendants(run.supervisor_pid) if title(pid).startswith("salver: policies")]


def test_replicas_come_with_load_and_go_without(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files=application(min_replicas=1))
    until_there_are(run, 1)
    answers = [get_later(f"{run.url}?until=enough", timeout=HELD_S) for _ in range(6)]
    until_there_are(run, 3)
    (run.cwd / "enough").touch()
    assert [answer.result(HELD_S).status for answer in answers] == [200] * 6
    until_there_are(run, 1)
    first, *_, last = worker(run)["scaling"]["decisions"]
    assert (first["before"], last["after"]) == (1, 1)
    assert re.fullmatch(r"[\d.]+ requests on 1 replica, [\d.]+ each, target 1: for 0.3 s", first["reason"])
    eventually("all is well", lambda: worker(run)["status"] == "HEALTHY", WITHIN_S)


def test_no_request_is_lost_while_the_number_changes(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files=application(min_replicas=0, downscale_delay_s=0.2))
    answers: list[Answer] = []
    for _ in range(6):
        burst = [get_later(f"{run.url}?s=0.6", timeout=HELD_S) for _ in range(8)]
        answers += [each.result(HELD_S) for each in burst]
        most = replicas(run)
        eventually(
            "some have gone, and others may be going", lambda most=most: replicas(run) < max(most, 1), WITHIN_S
        )
    assert {answer.status for answer in answers} == {200}
    assert len(worker(run)["scaling"]["decisions"]) >= 4


def test_a_burst_on_a_cold_deployment_is_served_by_one_cold_start(salver_run: Callable[..., SalverRun]) -> None:
    files = application(min_replicas=0, max_replicas=50, upscale_delay_s=30)
    slow = "    def __init__(self):\n        __import__('time').sleep(1)"
    files["app.py"] = files["app.py"].replace("    def __init__(self):", slow)
    run = salver_run("app:app", "--port", "0", files=files)
    assert (replicas(run), constructed(run)) == (0, 0)
    burst = [get_later(f"{run.url}?s=0.001", timeout=2 * WITHIN_S) for _ in range(500)]
    answers = [each.result(2 * WITHIN_S) for each in burst]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert constructed(run) == 1
    until_there_are(run, 0)
    assert get(run.url).status == 200
    assert constructed(run) == 2


POLICIES = """
import os
from salver.serve.autoscaling_policy import default_autoscaling_policy

def as_the_file_says(ctx):
    calls = ctx.policy_state.get("calls", 0) + 1
    with open("wanted") as file:
        return int(file.read()), {"calls": calls}

def together(contexts):
    total = sum(ctx.total_num_requests for ctx in contexts.values())
    return {deployment: 1 + total for deployment in contexts}, {}

class NeverAlone:
    def __init__(self, least):
        self.least = least
    def __call__(self, ctx):
        needed, state = default_autoscaling_policy(ctx)
        return max(needed, self.least), state
"""


def test_a_policy_of_the_user_s_decides(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    wanted.write_text("2")
    policy = {"policy_function": "policies:as_the_file_says"}
    files = {**application(min_replicas=1, policy=policy), "policies.py": POLICIES}
    run = salver_run("app:app", "--port", "0", files=files)
    until_there_are(run, 2)
    wanted.write_text("three")
    assert get(f"{run.url}?s=0.6").status == 200  # a change of load that a sample shows: the policy is asked
    eventually("the error", lambda: "ValueError" in worker(run)["scaling"]["error"], WITHIN_S)
    assert "policies.py, line 8" in worker(run)["scaling"]["error"]
    assert replicas(run) == 2
    wanted.write_text("3")
    assert get(f"{run.url}?s=0.6").status == 200
    until_there_are(run, 3)
    assert worker(run)["scaling"]["error"] == ""
    assert "policy policies:as_the_file_says wants 3" in worker(run)["scaling"]["decisions"][-1]["reason"]
    (host,) = policy_processes(run)
    os.kill(host, 9)
    wanted.write_text("1")
    assert get(f"{run.url}?s=0.6").status == 200
    until_there_are(run, 1)
    assert policy_processes(run) not in ([], [host])


def test_a_policy_may_be_a_class_with_arguments(salver_run: Callable[..., SalverRun]) -> None:
    policy = {"policy_function": "policies:NeverAlone", "policy_kwargs": {"least": 2}}
    files = {**application(min_replicas=1, policy=policy), "policies.py": POLICIES}
    run = salver_run("app:app", "--port", "0", files=files)
    until_there_are(run, 2)
    answers = [get_later(f"{run.url}?until=enough", timeout=HELD_S) for _ in range(6)]
    until_there_are(run, 3)
    (run.cwd / "enough").touch()
    assert {answer.result(HELD_S).status for answer in answers} == {200}
    until_there_are(run, 2)


CONFIG = """
applications:
  - name: default
    import_path: app:app
    autoscaling_policy:
      policy_function: policies:together
"""

TWO = """

@serve.deployment(autoscaling_config={**SETTINGS, "max_replicas": 2})
class Other:
    def __call__(self):
        return "other"

@serve.deployment
class Front:
    def __init__(self, *parts):
        self.parts = parts
    async def __call__(self, request):
        return await self.parts[0].hold.remote(request.query_params["until"], 0)

app = Front.bind(Worker.bind(), Other.bind())
"""


def test_an_application_s_policy_decides_for_all_of_its_deployments(salver_run: Callable[..., SalverRun]) -> None:
    files = {
        "app.py": application(min_replicas=1)["app.py"] + TWO,
        "policies.py": POLICIES,
        "serve.yaml": CONFIG,
    }
    run = salver_run("serve.yaml", "--port", "0", files=files)
    until_there_are(run, 1, "Worker")
    answers = [get_later(f"{run.url}?until=enough", timeout=HELD_S) for _ in range(2)]
    until_there_are(run, 3, "Worker")
    until_there_are(run, 2, "Other")
    (run.cwd / "enough").touch()
    assert {answer.result(HELD_S).status for answer in answers} == {200}
    reason = worker(run, "Other")["scaling"]["decisions"][0]["reason"]
    assert reason.startswith("policy of the application wants ")
    until_there_are(run, 1, "Worker")
    until_there_are(run, 1, "Other")
