"""Processes that live and do nothing: the controller and the proxies are replaced (docs/server-behavior.md)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from harness.http import get, get_later
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually
from salver.controller.client import ControlClient

WorkerRun = Callable[..., SalverRun]

SILENT_S = 10.0
REPLACED_WITHIN_S = 12.5 + 5.0
"""Asked every 2.5 s; the rest is for a loaded test machine."""
IN_PEACE_S = 6.0


def wait_for_another(run: SalverRun, role: str, stopped: int, within: float) -> int:
    """The pid of the one that has taken the place of ``stopped``."""
    return eventually(f"another {role} runs", lambda: [pid for pid in run.pids()[role] if pid != stopped], within)[0]


def stays_alone(run: SalverRun, role: str, pid: int) -> None:
    """For ``IN_PEACE_S`` on the clock, however crowded the machine is."""
    until = time.monotonic() + IN_PEACE_S
    while time.monotonic() < until:
        assert run.pids()[role] == [pid]
        time.sleep(0.05)


def test_a_stopped_controller_is_replaced_and_nothing_is_lost(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    replicas = sorted(run.pids()["replica"])
    (controller,) = run.pids()["controller"]
    control = ControlClient(run.folder / "control.sock")
    with ConstantLoad(run.url, rate=50) as load:
        load.wait_for(20)
        os.kill(controller, signal.SIGSTOP)
        stopped_at = time.monotonic()
        successor = wait_for_another(run, "controller", controller, REPLACED_WITHIN_S)
        assert time.monotonic() - stopped_at > SILENT_S - 0.5
        assert eventually("it answers", lambda: control.status().controller_pid) == successor
        load.wait_for(20)
    assert load.failures() == []
    assert sorted(run.pids()["replica"]) == replicas
    run.wait_for_output(rf"the controller \(pid {controller}\) has not answered for 10 s: it is stopped or hangs")

    second = worker_run("--instance", run.name, "--name", "second", "--route-prefix", "/second", beside=run)
    assert get(second.url).status == 200
    assert get(run.url).status == 200


@pytest.mark.parametrize("role", ["controller", "proxy"])
def test_one_that_is_stopped_for_a_while_stays(worker_run: WorkerRun, role: str) -> None:
    run = worker_run(replicas=1)
    before = run.pids()
    (pid,) = before[role]
    os.kill(pid, signal.SIGSTOP)
    stays_alone(run, role, pid)
    waiting = get_later(run.url)
    os.kill(pid, signal.SIGCONT)
    assert waiting.result(30).status == 200
    stays_alone(run, role, pid)  # what it did not answer in time is forgiven
    assert ControlClient(run.folder / "control.sock").status().controller_pid == before["controller"][0]
    assert run.pids() == before


def test_a_stopped_proxy_is_replaced_and_the_other_goes_on(worker_run: WorkerRun) -> None:
    run = worker_run("--proxies", "2", replicas=1)
    stopped = run.pids()["proxy"][0]
    os.kill(stopped, signal.SIGSTOP)
    answers = [get_later(run.url) for _ in range(20)]  # both accept from the same queue
    assert [each.result(SILENT_S - 2.0).status for each in answers] == [200] * 20
    eventually(
        "another proxy runs",
        lambda: stopped not in run.pids()["proxy"] and len(run.pids()["proxy"]) == 2,
        REPLACED_WITHIN_S,
    )
    run.wait_for_output(rf"the proxy \(pid {stopped}\) has not answered for 10 s")


def test_a_stopped_controller_does_not_keep_the_instance_from_ending(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    everything = run.processes()
    os.kill(run.pids()["controller"][0], signal.SIGSTOP)
    run.interrupt()
    assert run.wait(30) == 0
    run.assert_gone(everything, 5.0)
