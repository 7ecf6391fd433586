"""What is saved cannot be read: the controller does not start, says why, and requests are served as before."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.waiting import eventually
from salver.controller.client import ControlClient, ControlRefused

WorkerRun = Callable[..., SalverRun]

WITHIN_S = 60.0
ANSWERED_WITHIN_S = 2.0


def newer(_: bytes) -> bytes:
    return b"salver-target 999 0000\nof a later version"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


CONFIG = "serve.yaml"


def make_unreadable(run: SalverRun) -> None:
    """And end the controller that has read it, when nobody who started the instance asks it any more."""
    run.wait_for_output("DEPLOYMENT .*\n.*Worker ")
    for path in (run.folder / "state").iterdir():
        path.write_bytes(cut(path.read_bytes()))
    os.kill(run.pids()["controller"][0], signal.SIGKILL)
    run.wait_for_output("no saved state can be read")


def assert_told(run: SalverRun, command: tuple[str, ...], reason: str) -> None:
    began = time.monotonic()
    told = run.cli(*command, "--instance", run.name, timeout=WITHIN_S)
    assert time.monotonic() - began < 5 * ANSWERED_WITHIN_S
    assert told.returncode == 1
    assert re.search(rf"The controller decides nothing: .*{reason}", told.stderr), told.stderr
    assert str(run.folder / "state") in told.stderr
    assert "Put one of these files back" in told.stderr


def is_answered(control: ControlClient) -> bool:
    try:
        control.status()
    except ControlRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(newer, r"has format 999, and this version of Salver reads \d+ at most"), (cut, "no saved state can be read")],
    ids=["newer", "cut"],
)
def test_serving_goes_on_until_somebody_repairs_it(
    worker_run: WorkerRun, damage: Callable[[bytes], bytes], reason: str
) -> None:
    run = worker_run(replicas=2)
    (run.cwd / CONFIG).write_text("applications: [{import_path: 'worker:app'}]\n")
    before = run.pids()
    saved = {path: path.read_bytes() for path in (run.folder / "state").iterdir()}
    with ConstantLoad(run.url, rate=50) as load:
        load.wait_for(10)
        for path, data in saved.items():
            path.write_bytes(damage(data))
        os.kill(before["controller"][0], signal.SIGKILL)
        run.wait_for_output(reason)
        for command in (
            ("status",),
            ("events",),
            ("rollback", "default"),
            ("deploy", "worker:app"),
            ("deploy", CONFIG),
        ):
            assert_told(run, command, reason)
        (controller,) = run.pids()["controller"]
        assert "Traceback" not in run.output(), run.output()
        load.wait_for(10)
        assert (run.pids()["replica"], run.pids()["proxy"]) == (before["replica"], before["proxy"])

        for path, data in saved.items():
            path.write_bytes(data)
        control = ControlClient(run.folder / "control.sock")
        eventually("the controller takes over", lambda: is_answered(control), WITHIN_S)
        assert len(control.status().applications) == 1
        assert run.pids()["controller"] == [controller]
        told = [each.message for each in control.events() if each.kind == "controller"]
        assert re.search(reason, told[0])
        assert sorted(told[1:]) == [
            "the controller was killed by SIGKILL; it is back, everything went on",
            "the saved state can be read again; everything went on",
        ]
        assert run.pids()["replica"] == before["replica"]
    assert load.failures() == []
    assert get(run.url).status == 200


def test_over_the_network_only_the_token_is_told_why_and_the_instance_can_be_ended(worker_run: WorkerRun) -> None:
    run = worker_run("--admin-port", "0", replicas=1)
    authorized = {"authorization": f"Bearer {(run.folder / 'admin.token').read_text().strip()}"}
    make_unreadable(run)

    assert ask(run, "/api/v1/status", {})[0] == 401
    for path in ("/livez", "/readyz"):
        status, body = ask(run, path, {})
        assert status == 503
        assert str(run.folder) not in body
    status, body = ask(run, "/api/v1/status", authorized)
    assert status == 503
    assert "no saved state can be read" in body

    assert run.cli("shutdown", "--yes", "--instance", run.name).returncode == 0


def ask(run: SalverRun, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Over TCP."""
    port = json.loads((run.folder / "instance.json").read_bytes())["admin"]["port"]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
