"""``--address``: commands for an instance elsewhere, over TCP and with its token."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.worker import WORKER

WITHIN_S = 30.0

CONFIG = """
applications:
  - name: far
    route_prefix: /far
    import_path: far:app
    runtime_env: {working_dir: FOLDER}
"""


class Elsewhere:
    """Somebody who has an address and perhaps a token, and no instance of their own."""

    def __init__(self, run: SalverRun) -> None:
        self.url = f"http://127.0.0.1:{json.loads((run.folder / 'instance.json').read_bytes())['admin']['port']}"
        self.token = (run.folder / "admin.token").read_text()

    def salver(self, *argv: str, token: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder()), "SALVER_TOKEN": token}
        command = command_line(("salver", *argv))
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def run(module_run: Callable[..., SalverRun]) -> SalverRun:
    return module_run("worker:app", "--admin-port", "0", files={"worker.py": WORKER.replace("REPLICAS", "1")})


@pytest.fixture
def elsewhere(run: SalverRun) -> Elsewhere:
    return Elsewhere(run)


def test_with_the_token_it_is_as_at_home(run: SalverRun, elsewhere: Elsewhere) -> None:
    answer = elsewhere.salver("status", "--json", "--address", elsewhere.url, token=elsewhere.token)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["applications"].keys() == {"default"}
    events = elsewhere.salver("events", "-a", elsewhere.url, token=elsewhere.token)
    assert events.stdout == run.cli("events").stdout
    refused = elsewhere.salver("scale", "default/Worker", "2", "-a", elsewhere.url, token=elsewhere.token)
    assert (refused.returncode, "external_scaler_enabled" in refused.stderr) == (1, True)


def test_a_config_file_is_deployed_elsewhere(run: SalverRun, elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Its paths are those of the machine on which the instance runs."""
    (tmp_path / "far.py").write_text(WORKER.replace("REPLICAS", "1"))
    config = tmp_path / "far.yaml"
    config.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    for flags in ((), ("--dry-run",)):
        answer = elsewhere.salver("deploy", str(config), "-a", elsewhere.url, *flags, token=elsewhere.token)
        assert answer.returncode == 0, answer.stderr
        assert ("Ready." in answer.stderr) == (not flags)
    assert "far" in elsewhere.salver("config", "-a", elsewhere.url, token=elsewhere.token).stdout
    gone = elsewhere.salver("delete", "far", "--yes", "-a", elsewhere.url, token=elsewhere.token)
    assert gone.returncode == 0, gone.stderr
    code = elsewhere.salver("deploy", "far:app", "-a", elsewhere.url, token=elsewhere.token)
    assert (code.returncode, "deploy a config file there" in code.stderr) == (2, True)


@pytest.mark.parametrize(
    ("token", "told"), [("", "set SALVER_TOKEN to what is in"), ("wrong", "the token is in the file")]
)
def test_without_it_nothing_is_told(elsewhere: Elsewhere, token: str, told: str) -> None:
    answer = elsewhere.salver("status", "-a", elsewhere.url, token=token)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_own_instance_on_this_machine_needs_none(run: SalverRun, elsewhere: Elsewhere) -> None:
    port = elsewhere.url.rpartition(":")[2]
    for url in (elsewhere.url, f"http://localhost:{port}/"):
        answer = run.cli("status", "-a", url)
        assert answer.returncode == 0, answer.stderr
    both = run.cli("status", "-a", elsewhere.url, "--instance", "8000")
    assert (both.returncode, "one of them" in both.stderr) == (2, True)
    for here in ("auto", "local", ""):
        assert run.cli("status", "-a", here).returncode == 0


def test_where_nobody_listens(elsewhere: Elsewhere) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    answer = elsewhere.salver("status", "-a", f"http://127.0.0.1:{port}", token="x")
    assert (answer.returncode, f"No control API answers at http://127.0.0.1:{port}" in answer.stderr) == (1, True)


@pytest.mark.parametrize("address", ["ray://head:10001", "localhost:8265", "http://", "http://a/path", "http://a:b"])
def test_what_is_no_address(elsewhere: Elsewhere, address: str) -> None:
    answer = elsewhere.salver("status", "-a", address)
    assert (answer.returncode, "is not of the form http://HOST:PORT" in answer.stderr) == (2, True), answer.stderr


def test_commands_that_start_an_instance_take_only_this_machine(elsewhere: Elsewhere) -> None:
    for command in (("run", "app:app"), ("start",)):
        answer = elsewhere.salver(*command, "-a", "http://elsewhere:8265")
        assert (answer.returncode, "starts an instance on this machine" in answer.stderr) == (2, True)


def test_the_token_is_shown_and_replaced(run: SalverRun, elsewhere: Elsewhere) -> None:
    def statuses(*tokens: str) -> list[int]:
        return [elsewhere.salver("status", "-a", elsewhere.url, token=each).returncode for each in tokens]

    first = run.cli("token").stdout
    assert first == elsewhere.token
    second = run.cli("token", "rotate")
    assert (second.returncode, "the one before is refused" in second.stderr) == (0, True)
    assert statuses(first, second.stdout) == [1, 0]
    third = run.cli("token", "rotate", "--keep-old").stdout
    assert statuses(second.stdout, third) == [0, 0]
    assert run.cli("token", "drop-old").stdout == ""
    assert statuses(second.stdout, third) == [1, 0]
    assert run.cli("token").stdout == third
    assert (run.folder / "admin.token").stat().st_mode & 0o777 == 0o600
    logs = "".join(path.read_text() for path in run.runtime.glob("salver/logs/*/*.log"))
    assert all(each.strip() not in logs for each in (first, second.stdout, third))
    (run.folder / "admin.token").unlink()
    assert "`salver token rotate` makes one" in run.cli("token").stderr
    assert statuses(run.cli("token", "rotate").stdout) == [0]


def test_an_instance_is_ended_from_elsewhere(salver_run: Callable[..., SalverRun]) -> None:
    files = {"worker.py": WORKER.replace("REPLICAS", "1")}
    run = salver_run("worker:app", "--port", "0", "--admin-port", "0", files=files)
    elsewhere = Elsewhere(run)
    answer = elsewhere.salver("shutdown", "--yes", "-a", elsewhere.url, token=elsewhere.token)
    assert answer.returncode == 0, answer.stderr
    run.wait(WITHIN_S)
