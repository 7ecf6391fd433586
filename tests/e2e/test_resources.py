"""Resources: what is stated is reserved, what finds no room waits and says why, replicas see the GPUs that they have.

GPUs here are logical: ``--num-gpus`` says how many there are, and nobody checks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.waiting import eventually

pytestmark = pytest.mark.usefixtures("own_gpus_are_not_looked_at")

SalverRunner = Callable[..., SalverRun]
WITHIN_S = 20.0

APP = """
import os

from salver import serve


class Env:
    def seen(self):
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        return {name: os.environ.get(name) for name in names} | {"pid": os.getpid()}

    def __call__(self, request):
        return self.seen()


class Front:
    def __init__(self, **handles):
        self.handles = handles

    async def __call__(self, request):
        return {name: await handle.broadcast("seen") for name, handle in self.handles.items()}


def env(name="Env", num_replicas=1, **actor):
    return serve.deployment(Env).options(name=name, num_replicas=num_replicas, ray_actor_options=actor).bind()


def front(**applications):
    return serve.deployment(Front).bind(**applications)


gpus = front(
    whole=env("whole", num_gpus=1, num_cpus=2.5),
    halves=env("halves", num_replicas=2, num_gpus=0.5),
    none=env("none"),
)
plain = env()
one_gpu = env(num_gpus=1)
one_cpu = env(num_cpus=1)
licensed = env(resources={"licence": 1})
rest = front(serves=env("serves"), waits=env("waits", num_gpus=1))
"""


@pytest.fixture
def own_gpus_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(salver_run: SalverRunner) -> SalverRunner:
    def start(target: str, *argv: str, **options: Any) -> SalverRun:
        port = () if "--instance" in argv else ("--port", "0")
        return salver_run(f"app:{target}", *port, *argv, files={"app.py": APP}, **options)

    return start


def answer(url: str) -> Any:
    got = get(url)
    assert got.status == 200, got
    return json.loads(got.body)


def application(run: SalverRun, name: str = "default") -> dict[str, Any]:
    return run.status()["applications"].get(name, {})


def waits_for(run: SalverRun, name: str, reason: str) -> None:
    eventually(f"{name} says {reason!r}", lambda: reason in json.dumps(application(run, name)), WITHIN_S)
    assert application(run, name)["status"] == "DEPLOYING"


# --- GPUs -----------------------------------------------------------------------------------------------


def seen(answers: list[dict[str, Any]], name: str = "CUDA_VISIBLE_DEVICES") -> list[str | None]:
    return sorted(each[name] for each in answers)


def test_replicas_see_the_gpus_that_they_have(run: SalverRunner) -> None:
    running = run("gpus", "--num-gpus", "2", "--num-cpus", "4")
    answers = answer(running.url)
    (whole,) = seen(answers["whole"])
    assert whole in {"0", "1"}
    other = {"0": "1", "1": "0"}[whole]
    assert seen(answers["halves"]) == [other, other]  # packed on one
    assert seen(answers["none"]) == [""]  # as in Ray: who has reserved none sees none
    assert seen(answers["whole"], "OMP_NUM_THREADS") == ["2"]
    assert answers["none"][0]["OMP_NUM_THREADS"] is None
    replicas = application(running)["deployments"]["halves"]["replicas"]
    assert [replica["gpus"] for replica in replicas] == [[int(other)]] * 2


def test_gpus_have_the_names_that_the_instance_has_for_them(run: SalverRunner) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb,7"}
    assert answer(run("one_gpu", "--num-gpus", "3", env=env).url)["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa"


def test_a_variable_that_shows_fewer_gpus_is_believed(run: SalverRunner) -> None:
    failed = run("one_gpu", "--num-gpus", "2", env={"CUDA_VISIBLE_DEVICES": "3"}, wait_ready=False)
    assert failed.wait(WITHIN_S) in {1, 2, 3}
    assert "num_gpus=2: CUDA_VISIBLE_DEVICES='3' shows 1 to this instance" in failed.output()
    assert "Traceback" not in failed.output()


def test_without_gpus_to_be_reserved_the_variable_is_left_alone(run: SalverRunner) -> None:
    assert answer(run("plain", "--num-gpus", "0").url)["CUDA_VISIBLE_DEVICES"] is None


# --- waiting for room -----------------------------------------------------------------------------------


def test_what_finds_no_room_waits_with_a_reason_and_the_rest_serves(run: SalverRunner) -> None:
    first = run("plain", "--num-gpus", "0")
    waiting = run(
        "rest",
        "--instance",
        first.name,
        "--name",
        "second",
        "--route-prefix",
        "/second",
        beside=first,
        wait_ready=False,
    )
    waits_for(first, "second", "needs 1 GPU, this machine has 0")
    deployments = application(first, "second")["deployments"]
    assert deployments["waits"]["replica_states"].get("RUNNING", 0) == 0
    eventually(
        "the rest runs",
        lambda: application(first, "second")["deployments"]["serves"]["status"] == "HEALTHY",
        WITHIN_S,
    )
    assert waiting.is_alive()
    assert answer(first.url)["pid"]
    waiting.interrupt()
    waiting.wait(WITHIN_S)


@pytest.mark.parametrize(
    ("target", "flags", "reason"),
    [
        ("one_gpu", ("--num-gpus", "1"), "needs 1 GPU, 0 of 1 are free"),
        ("licensed", ("--resources", '{"licence": 1.5}'), "needs 1 of resource 'licence', 0.5 of 1.5 are free"),
        ("one_cpu", ("--num-cpus", "1.5"), "needs 1 CPU, 0.5 of 1.5 are free"),
    ],
)
def test_what_is_freed_is_given_to_who_waits(
    run: SalverRunner, target: str, flags: tuple[str, ...], reason: str
) -> None:
    first = run(target, *flags)
    second = run(
        target,
        "--instance",
        first.name,
        "--name",
        "second",
        "--route-prefix",
        "/second",
        beside=first,
        wait_ready=False,
    )
    waits_for(first, "second", reason)
    assert first.cli("delete", "default", "--yes", "--instance", first.name).returncode == 0
    second.wait_ready(WITHIN_S)
    assert answer(f"{first.url}second")["pid"]


def test_who_states_no_cpus_needs_none_and_who_does_waits(run: SalverRunner) -> None:
    first = run("plain", "--num-cpus", "0.5")
    run(
        "one_cpu",
        "--instance",
        first.name,
        "--name",
        "second",
        "--route-prefix",
        "/second",
        beside=first,
        wait_ready=False,
    )
    waits_for(first, "second", "needs 1 CPU, this machine has 0.5")


def test_a_restarted_controller_knows_the_same_machine(run: SalverRunner) -> None:
    running = run("gpus", "--num-gpus", "2", "--num-cpus", "4")
    before = answer(running.url)
    (controller,) = running.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    eventually("a new controller", lambda: running.pids()["controller"] not in ([], [controller]), WITHIN_S)
    eventually("it answers", lambda: application(running).get("status") == "RUNNING", WITHIN_S)
    dead = before["whole"][0]["pid"]
    os.kill(dead, signal.SIGKILL)

    def replaced() -> bool:
        replicas = application(running)["deployments"]["whole"]["replicas"]
        return [each["state"] for each in replicas] == ["RUNNING"] and replicas[0]["pid"] != dead

    eventually("the replica is replaced", replaced, WITHIN_S)
    after = answer(running.url)
    assert seen(after["whole"]) == seen(before["whole"])  # the only one that is free
    assert seen(after["halves"]) == seen(before["halves"])


# --- what the user says ---------------------------------------------------------------------------------


def test_a_script_says_what_the_machine_has(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    script = """
from app import env
from salver import serve

serve.start(http_options={"port": 0}, num_cpus=1, num_gpus=1, memory=1000, resources={"licence": 1})
actor = {"num_cpus": 1, "num_gpus": 0.5, "memory": 1000, "resources": {"licence": 1}}
print(serve.run(env(**actor)).seen.remote().result()["CUDA_VISIBLE_DEVICES"])
"""
    done = run_python(script, files={"app.py": APP})
    assert done.stdout == "0\n", done.stderr
    wrong = run_python("from salver import serve; serve.start(num_gpus=0.5)")
    assert "num_gpus=0.5: must be an integer of at least 0, or None" in wrong.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-cpus", "-1"), "'-1' is not a number of at least 0"),
        (("--num-gpus", "0.5"), "'0.5' is not a valid integer"),
        (("--memory", "much"), "is not a size"),
        (("--resources", "{licence: 1}"), "is not JSON"),
        (("--resources", '{"GPU": 1}'), "must not contain 'GPU', which is stated with num_gpus"),
        (("--num-gpus", "1", "--instance", "8000"), "not with --instance"),
    ],
)
def test_flags_that_make_no_sense_start_nothing(run: SalverRunner, flags: tuple[str, ...], message: str) -> None:
    wrong = run("plain", *flags, wait_ready=False)
    assert wrong.wait(WITHIN_S) == 2
    assert message in wrong.output()
