"""Which replicas have ended of late and why, as status and the REST document say; how late the controller is."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.http import get
from harness.instance import SalverRun
from harness.waiting import eventually
from salver.controller.client import ControlClient

WorkerRun = Callable[..., SalverRun]

WITHIN_S = 60.0
STOPPED_S = 1.0


def deployment(run: SalverRun) -> dict[str, Any]:
    (application,) = ControlClient(run.folder / "control.sock").details()["applications"].values()
    (found,) = application["deployments"].values()
    return found


def test_what_died_here_and_why_is_known_after_a_restart_of_the_controller(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    first = deployment(run)["replicas"][0]
    assert deployment(run)["recent_dead_replicas"] == []
    assert get(run.url).status == 200
    os.kill(first["pid"], signal.SIGKILL)
    eventually("it has ended", lambda: deployment(run)["recent_dead_replicas"], WITHIN_S)
    (dead,) = deployment(run)["recent_dead_replicas"]
    assert (dead["replica_id"], dead["pid"], dead["state"]) == (first["replica_id"], first["pid"], "STOPPED")
    assert (dead["cause"], dead["reason"], dead["exit_code"]) == ("exited", "was killed by SIGKILL", -signal.SIGKILL)
    assert dead["start_time_s"] == first["start_time_s"] < dead["ended_at_s"] <= time.time()
    assert dead["log_file_path"] == first["log_file_path"]
    assert Path(dead["log_file_path"]).parent.is_dir()

    (controller,) = run.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    eventually("another controller runs", lambda: run.pids()["controller"] not in ([], [controller]), WITHIN_S)
    eventually("the replicas are found", lambda: deployment(run)["status"] == "HEALTHY", WITHIN_S)
    assert deployment(run)["recent_dead_replicas"] == [dead]
    shown = run.cli("status").stdout
    assert "1 replica ended in the last 10m; " in shown
    assert f"ago {dead['replica_id']} was killed by SIGKILL" in shown


def test_a_controller_that_stood_still_says_by_how_much_it_was_late(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)

    def health() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run.cli("controller-health", "--json").stdout)
        return found

    eventually("its timer is measured", lambda: health()["event_loop_delay_stats_s"] is not None, WITHIN_S)
    (controller,) = run.pids()["controller"]
    os.kill(controller, signal.SIGSTOP)
    time.sleep(STOPPED_S)  # for so long it stands still: this is what is measured
    os.kill(controller, signal.SIGCONT)
    eventually("it is late", lambda: health()["event_loop_delay_stats_s"]["max"] >= STOPPED_S - 0.25 - 0.05, WITHIN_S)
    shown = run.cli("controller-health").stdout
    assert f"pid {controller}" in shown
    assert "event loop late" in shown
