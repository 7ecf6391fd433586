"""The disk of the runtime folder is full: serving goes on, and operators hear what cannot be kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from versioned import Second

from harness.http import get
from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.load import ConstantLoad
from harness.waiting import eventually
from harness.worker import WORKER
from salver.controller.client import ControlClient
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.code_context import code_context
from salver.serve.building.graph import build_application
from salver.views import ReplicaView

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root may mount"),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare"),
]

WITHIN_S = 60.0
# What it holds is more than one would think: the sources of all test modules that this process has loaded.
IN_A_SMALL_FOLDER = 'mount -t tmpfs -o size=8m,mode=700 tmpfs "$XDG_RUNTIME_DIR" && exec "$@"'


SALVER_RUN = command_line(("salver", "run", "worker:app", "--port", "0"))


class SmallRun(SalverRun):
    """A run whose runtime folder is a small file system of its own, which only its processes see."""

    def wait_ready(self, within: float = 30.0) -> None:
        self.runtime = Path(f"/proc/{self.cli_pid}/root{self.runtime}")
        super().wait_ready(within)

    @property
    def control(self) -> ControlClient:
        return ControlClient(self.folder / "control.sock")

    def fill(self) -> Path:
        """The file that takes all that was free."""
        path = self.folder / "filling"
        with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        return path

    def replicas(self, app: str) -> list[ReplicaView]:
        view = next(view for view in self.control.status().applications if view.name == app)
        return [each for each in view.deployments[0].replicas if each.state == "RUNNING"]

    def heard(self, text: str) -> bool:
        return any(text in each.message for each in self.control.events())


@pytest.fixture
def run(tmp_path: Path) -> Generator[SmallRun]:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    (tmp_path / "worker.py").write_text(WORKER.replace("REPLICAS", "1"))
    run = SmallRun.launch(
        "unshare",
        "--mount",
        "sh",
        "-c",
        IN_A_SMALL_FOLDER,
        "sh",
        *SALVER_RUN,
        cwd=tmp_path,
        env={"XDG_RUNTIME_DIR": str(new_runtime_folder())},
    )
    run.wait_for_output("Ready in")
    run.wait_ready()
    yield run
    run.stop()


def deploy_second(run: SmallRun) -> None:
    spec = build_application(
        Second.options(num_replicas=1).bind("fine"),
        name="second",
        route_prefix="/second",
        code=code_context(),
        settings=ApplicationSettings(),
    )
    run.control.deploy(spec)
    view = run.control.wait_settled("second", WITHIN_S)
    assert view is not None
    assert view.status == "RUNNING", view


def test_a_config_that_cannot_be_saved_is_no_mistake_of_its_author(run: SmallRun, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "applications: [{name: more, import_path: 'worker:app', route_prefix: /more}]"
    )
    run.fill()
    deployed = subprocess.run(
        command_line(("salver", "deploy", "serve.yaml")),
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(run.runtime)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert "Error: the config cannot be saved: [Errno 28] No space left on device" in deployed.stderr
    assert deployed.returncode == 1


def test_serving_goes_on_and_what_is_wanted_is_saved_when_there_is_room_again(run: SmallRun) -> None:
    (first,) = run.replicas("default")
    filling = run.fill()
    with ConstantLoad(run.url, rate=50) as load:
        load.wait_for(20)
        assert load.failures() == []
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        (second,) = eventually(
            "the replica is replaced",
            lambda: [each for each in run.replicas("default") if each.pid != first.pid],
            WITHIN_S,
        )
        back_at = time.monotonic()
        load.wait_for(20)
    assert [each for each in load.failures() if each.ended < killed_at or each.sent > back_at] == []

    deploy_second(run)
    assert get(f"{run.url}second").body == "fine"
    run.wait_for_output("the target cannot be saved, and would be lost with this controller: .*No space left")
    assert run.heard("the target cannot be saved")
    assert not run.heard("the target is saved again")

    filling.unlink()
    eventually("it is saved", lambda: run.heard("the target is saved again"), WITHIN_S)
    (controller,) = run.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    eventually("another one", lambda: run.control.status().controller_pid != controller, WITHIN_S)
    assert get(f"{run.url}second").body == "fine"
    assert {view.name for view in run.control.status().applications} == {"default", "second"}
    assert [each.pid for each in run.replicas("default")] == [second.pid]
    assert "Traceback" not in run.output(), run.output()


def test_the_controller_and_the_proxy_come_back_on_a_full_disk(run: SmallRun) -> None:
    before = run.pids()
    run.fill()
    for role in ("controller", "proxy"):
        os.kill(before[role][0], signal.SIGKILL)
    eventually(
        "another controller answers",
        lambda: run.control.status().controller_pid not in before["controller"],
        WITHIN_S,
    )
    assert get(run.url).status == 200
    assert run.pids()["replica"] == before["replica"]
    assert "Traceback" not in run.output(), run.output()


def test_an_instance_does_not_start_on_a_full_disk_and_says_why(tmp_path: Path) -> None:
    script = IN_A_SMALL_FOLDER.replace("&& exec", '&& ! cat /dev/zero > "$XDG_RUNTIME_DIR/filling" && exec')
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *SALVER_RUN],
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 3, done
    assert "cannot make an instance in " in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
