"""Somebody sets the clock, by an hour, under requests: nothing ends early, or late, or never because of it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path

import pytest

from harness.http import Answer, get, get_later
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually
from harness.wall_clock import WallClock, forget_wall_clock, needs_wall_clock
from salver.controller.client import ControlClient
from salver.views import DeploymentView

pytestmark = [needs_wall_clock, pytest.mark.slow]

WITHIN_S = 60.0
HOUR_S = 3600
ABOUT_S = 300.0
"""Two times are the same if they are no further apart: an hour is what they might be."""

APPLICATION = """
import asyncio, time
from pathlib import Path
from salver import serve

@serve.deployment(
    max_ongoing_requests=20, health_check_period_s=0.2, graceful_shutdown_timeout_s=600,
    autoscaling_config=dict(
        min_replicas=1, initial_replicas=2, max_replicas=3, target_ongoing_requests=2, look_back_period_s=1,
        upscale_delay_s=1, downscale_delay_s=1800,
    ),
)
class Busy:
    async def hold(self, until):
        while not Path(until).exists():
            await asyncio.sleep(0.02)
        return "held"

    def check_health(self):
        with open("checks", "a") as file:
            file.write("x")

@serve.deployment(num_replicas=2, max_ongoing_requests=200)
class Front:
    def __init__(self, busy):
        self.busy = busy

    async def __call__(self, request):
        until = request.query_params.get("until")
        return await self.busy.hold.remote(until) if until else repr(time.time())

app = Front.bind(Busy.bind())
"""
OTHER = "from salver import serve\n\n@serve.deployment\ndef other():\n    return 'other'\n\napp = other.bind()\n"


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def run(clock: WallClock, salver_run: Callable[..., SalverRun]) -> Generator[SalverRun]:
    files = {"app.py": APPLICATION, "other.py": OTHER}
    run = salver_run("app:app", "--port", "0", files=files, env=clock.environment)
    yield run
    run.stop()
    forget_wall_clock(run.cli_pid)


def control(run: SalverRun) -> ControlClient:
    return ControlClient(run.folder / "control.sock")


def deployments(run: SalverRun) -> dict[str, DeploymentView]:
    view = next(each for each in control(run).status().applications if each.name == "default")
    return {each.name: each for each in view.deployments}


def serving(run: SalverRun) -> set[str]:
    """The ids of all replicas that run."""
    return {
        replica.replica_id
        for each in deployments(run).values()
        for replica in each.replicas
        if replica.state == "RUNNING"
    }


def checks(run: SalverRun) -> int:
    path = run.cwd / "checks"
    return path.stat().st_size if path.exists() else 0


def timed(url: str, seconds: float) -> tuple[Answer, float]:
    """An answer to a request that has so long, and how long it took."""
    start = time.monotonic()
    answer = get(url, timeout=WITHIN_S, headers={"x-request-timeout-seconds": f"{seconds:g}"})
    return answer, time.monotonic() - start


@pytest.mark.parametrize("hours", [1, -1])
def test_no_timeout_fires_and_none_is_skipped(run: SalverRun, clock: WallClock, hours: int) -> None:
    before, began_at, replicas = run.pids(), time.monotonic(), serving(run)
    long = {"x-request-timeout-seconds": "1500"}
    held = get_later(f"{run.url}?until=enough", timeout=2 * WITHIN_S, headers=long)
    dying = get_later(f"{run.url}?until=never", timeout=WITHIN_S, headers={"x-request-timeout-seconds": "3"})
    with ConstantLoad(run.url, rate=50) as load:
        load.wait_for(50)
        clock.jump(hours * HOUR_S)
        jumped_at = time.monotonic()
        load.wait_for(5)
        assert abs(float(get(run.url).body) - clock.now()) < ABOUT_S, "the processes have seen it"
        assert dying.result(WITHIN_S).status == 504, "what had begun to count goes on"

        answer, took_s = timed(f"{run.url}?until=never", 1.0)
        assert answer.status == 504
        assert took_s > 0.9
        checked = checks(run)
        eventually("replicas are asked how they are", lambda: checks(run) > checked + 5, WITHIN_S)
        assert not scalings(run), "one replica is too many, but not for 1800 s"
        more = [get_later(f"{run.url}?until=enough", timeout=2 * WITHIN_S, headers=long) for _ in range(4)]
        eventually("one more comes with more load", lambda: len(scalings(run)) == 1, WITHIN_S)
        load.wait_for(max(1, int(50 * (jumped_at + 5.0 - time.monotonic()))))  # twice as long as it takes to suspect

    assert load.failures() == []
    assert not held.done()
    (run.cwd / "enough").touch()
    assert [each.result(WITHIN_S).status for each in (held, *more)] == [200] * 5
    after = run.pids()
    assert {role: set(pids) <= set(after[role]) for role, pids in before.items()} == dict.fromkeys(before, True)
    assert replicas <= serving(run)
    assert_told_well(run, clock, time.monotonic() - began_at)
    run.interrupt()
    assert run.wait(30) == 0, run.output()


def scalings(run: SalverRun) -> list[str]:
    return [each.message for each in control(run).events() if each.kind == "scale"]


def assert_told_well(run: SalverRun, clock: WallClock, ran_s: float) -> None:
    """What people are told: ages, times, events, log lines."""
    for deployment in deployments(run).values():
        for replica in deployment.replicas:
            assert 0 <= replica.age_s < ran_s + ABOUT_S, replica
            assert abs(replica.start_time_s + replica.age_s - clock.now()) < ABOUT_S, replica
    table, document = run.cli("status"), run.cli("status", "--json")
    assert (table.returncode, document.returncode) == (0, 0), table.stderr + document.stderr
    ages = re.findall(r"#\S+ +RUNNING +(\S+) ", table.stdout)
    assert len(ages) >= 5, table.stdout
    assert all(re.fullmatch(r"\d+[sm]", age) for age in ages), table.stdout
    assert json.loads(document.stdout)["applications"]["default"]["status"] == "RUNNING"

    happenings = control(run).events()
    assert abs(happenings[-1].at_s - clock.now()) < ABOUT_S, happenings
    assert [each.number for each in happenings] == list(range(1, len(happenings) + 1))
    assert not [each for each in happenings if each.kind in {"health", "recycle", "controller"}], happenings
    assert run.cli("events").stdout.count("\n") >= len(happenings)

    get(f"{run.url}lately")
    run.wait_for_output(r"GET /lately 200")
    assert abs(time_of("GET /lately 200", run.output()) - clock.now()) < ABOUT_S
    logs = run.cli("logs", "-n", "1000")
    assert abs(time_of("GET /lately 200", logs.stdout) - clock.now()) < ABOUT_S, logs.stderr
    wrong = re.findall(
        r"^(?:WARNING|ERROR) .*\n(?!Request \S+ timed out after [0-9.]+s).*", run.output(), re.MULTILINE
    )
    assert wrong == []
    assert "Traceback" not in run.output()


def time_of(text: str, lines: str) -> float:
    """The wall-clock time of the log line with ``text``."""
    found = re.search(rf"^INFO (\S+ \S+),\d+ .*{re.escape(text)}", lines, re.MULTILINE)
    assert found is not None, lines
    return datetime.fromisoformat(found[1]).timestamp()


def kill_the_controller(run: SalverRun) -> None:
    (controller,) = run.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    eventually("another one answers", lambda: control(run).status().controller_pid != controller, WITHIN_S)


@pytest.mark.parametrize("hours", [1, -1])
def test_what_is_saved_after_it_is_newer_than_what_was_saved_before(
    run: SalverRun, clock: WallClock, salver_run: Callable[..., SalverRun], hours: int
) -> None:
    clock.jump(hours * HOUR_S)
    kill_the_controller(run)
    flags = ("--instance", run.name, "--name", "other", "--route-prefix", "/other", "--non-blocking")
    other = salver_run("other:app", *flags, beside=run, env=clock.environment)
    assert other.wait(WITHIN_S) == 0, other.output()
    kill_the_controller(run)
    assert {each.name for each in control(run).status().applications} == {"default", "other"}
    assert get(other.url).body == "other"
    assert get(run.url).status == 200


@pytest.mark.parametrize("hours", [1, -1])
def test_a_command_that_joined_since_ends_what_it_has_deployed(
    run: SalverRun, clock: WallClock, salver_run: Callable[..., SalverRun], hours: int
) -> None:
    clock.jump(hours * HOUR_S)
    flags = ("--instance", run.name, "--name", "other", "--route-prefix", "/other")
    other = salver_run("other:app", *flags, beside=run, env=clock.environment)
    assert get(other.url).body == "other"
    other.interrupt()
    assert other.wait(WITHIN_S) == 0, other.output()
    assert [each.name for each in control(run).status().applications] == ["default"]
    assert get(run.url).status == 200
