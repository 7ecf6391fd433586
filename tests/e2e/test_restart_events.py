"""What operators find afterwards when the controller or a proxy was started again: that, why, and no more."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from harness.http import get
from harness.instance import SalverRun
from harness.waiting import eventually
from salver.controller.client import ControlClient
from salver.views import Happening, ReplicaView

WorkerRun = Callable[..., SalverRun]

WITHIN_S = 60.0


def happened(run: SalverRun, after: int, kind: str) -> list[Happening]:
    return [each for each in control(run).events(after) if each.kind == kind]


def control(run: SalverRun) -> ControlClient:
    return ControlClient(run.folder / "control.sock")


def replicas(run: SalverRun) -> dict[str, ReplicaView]:
    (application,) = control(run).status().applications
    return {each.replica_id: each for deployment in application.deployments for each in deployment.replicas}


def kill(run: SalverRun, role: str) -> None:
    (pid,) = run.pids()[role]
    os.kill(pid, signal.SIGKILL)
    eventually(f"another {role} runs", lambda: run.pids()[role] not in ([], [pid]), WITHIN_S)


def test_a_controller_that_was_killed_is_one_event_and_nothing_is_younger_for_it(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    before, ages = control(run).events()[-1].number, replicas(run)
    kill(run, "controller")

    eventually("it is told of", lambda: happened(run, before, "controller"), WITHIN_S)
    eventually(
        "its replicas are found", lambda: {each.state for each in replicas(run).values()} == {"RUNNING"}, WITHIN_S
    )
    assert [(each.kind, each.message) for each in control(run).events(before)] == [
        ("controller", "the controller was killed by SIGKILL; it is back, everything went on")
    ]
    after = replicas(run)
    assert after.keys() == ages.keys()
    for name, view in after.items():
        assert view.age_s > ages[name].age_s
        assert abs(view.start_time_s - ages[name].start_time_s) < 1.0

    kill(run, "controller")
    eventually("the second one, too", lambda: len(happened(run, before, "controller")) == 2, WITHIN_S)


def test_a_proxy_that_was_killed_is_one_event(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    before = control(run).events()[-1].number
    kill(run, "proxy")

    eventually("it is told of", lambda: happened(run, before, "proxy"), WITHIN_S)
    assert [(each.kind, each.message) for each in control(run).events(before)] == [
        ("proxy", "a proxy was killed by SIGKILL; it is back; the connections that it had were cut")
    ]
    assert get(run.url).status == 200
