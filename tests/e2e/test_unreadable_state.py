"""What is saved cannot be read: the controller does not start, says why, and requests are served as before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually
from salver.controller.client import ControlClient

WorkerRun = Callable[..., SalverRun]

WITHIN_S = 60.0


def newer(_: bytes) -> bytes:
    return b"salver-target 999 0000\nof a later version"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(newer, r"has format 999, and this version of Salver reads \d+ at most"), (cut, "no saved state can be read")],
    ids=["newer", "cut"],
)
def test_serving_goes_on_until_somebody_repairs_it(
    worker_run: WorkerRun, damage: Callable[[bytes], bytes], reason: str
) -> None:
    run = worker_run(replicas=2)
    before = run.pids()
    saved = {path: path.read_bytes() for path in (run.folder / "state").iterdir()}
    with ConstantLoad(run.url, rate=50) as load:
        load.wait_for(10)
        for path, data in saved.items():
            path.write_bytes(damage(data))
        os.kill(before["controller"][0], signal.SIGKILL)
        run.wait_for_output(reason)
        run.wait_for_output("the controller exited with code 3")
        if damage is newer:  # it waits for 20 s
            told = run.cli("status", "--instance", run.name, timeout=WITHIN_S)
            assert told.returncode == 1
            assert "The controller does not answer" in told.stderr
            log = Path(told.stderr.split(": ")[-1].strip())
            assert any("the controller cannot start" in each.read_text() for each in log.glob("controller_*.log"))
        assert "Traceback" not in run.output(), run.output()
        load.wait_for(10)
        assert (run.pids()["replica"], run.pids()["proxy"]) == (before["replica"], before["proxy"])

        for path, data in saved.items():
            path.write_bytes(data)
        control = ControlClient(run.folder / "control.sock")
        eventually("a controller starts", lambda: run.pids()["controller"], WITHIN_S)
        assert len(control.status().applications) == 1
        assert run.pids()["replica"] == before["replica"]
    assert load.failures() == []
    assert get(run.url).status == 200
