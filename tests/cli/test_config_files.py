"""Config files: checked before anything happens, run, deployed, written, shown."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.http import get
from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.waiting import eventually

from .progress import without_progress

WITHIN_S = 60.0
Run = Callable[..., SalverRun]

APP = """
import os
from salver import serve

@serve.deployment
class Hello:
    def __call__(self, request):
        return f"hello from {os.path.basename(os.getcwd())} {os.environ.get('WORD', '')}".strip()

app = Hello.bind()

def build(args):
    return Hello.options(num_replicas=int(args["replicas"])).bind()
"""

CONFIG = """\
http_options:
  port: 0
  request_timeout_s: 7.5
  root_url: http://models.example
applications:
  - name: one
    route_prefix: /one
    import_path: hello:app
  - name: two
    route_prefix: /two
    import_path: hello:build
    args: {replicas: "2"}
    runtime_env: {env_vars: {WORD: again}}
"""


DEPLOYED = CONFIG[CONFIG.index("applications:") :]
"""Without what only the start of an instance heeds."""


def salver(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        command_line(("salver", *argv)),
        cwd=cwd,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- mistakes ---------------------------------------------------------------------------------------------

WRONG = """\
http_options:
  port: eighty
applications:
  - name: one
    import_path: hello:app
    deployments:
      - name: Hello
        num_replica: 2
"""


@pytest.mark.parametrize("command", ["run", "deploy"])
def test_mistakes_are_placed_and_nothing_is_started(tmp_path: Path, command: str) -> None:
    (tmp_path / "serve.yaml").write_text(WRONG)
    (tmp_path / "hello.py").write_text("import pathlib; pathlib.Path('imported').touch()")
    answer = salver(command, "serve.yaml", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    first, second, *rest = answer.stderr.splitlines()
    assert first.startswith("serve.yaml:2:9: http_options.port='eighty'")
    assert second.startswith("serve.yaml:8:9: applications[0].deployments[0].num_replica: ")
    assert "Did you mean 'num_replicas'?" in second
    assert rest == ["Error: serve.yaml is wrong; nothing was started or changed."]
    assert not (tmp_path / "imported").exists()


def test_mistakes_change_nothing_of_what_runs(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", files={"hello.py": APP, "serve.yaml": WRONG})
    before = run.status()["applications"]
    answer = run.cli("deploy", "serve.yaml")
    assert answer.returncode == 2
    after = run.status()["applications"]
    assert {name: each["last_deployed_time_s"] for name, each in after.items()} == {
        name: each["last_deployed_time_s"] for name, each in before.items()
    }
    assert get(run.url).status == 200


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["deploy", "serve.yaml", "a=b"], "Application arguments cannot be specified for a config file."),
        (["run", "serve.yaml", "a=b"], "Application arguments cannot be specified for a config file."),
        (["run", "serve.yaml", "--name", "x"], "--name: not with a config file"),
        (["deploy", "serve.yaml", "--route-prefix", "/x"], "--route-prefix: not with a config file"),
        (["run", "serve.yaml", "--instance", "x"], "salver deploy FILE --instance NAME"),
    ],
)
def test_what_a_file_says_is_not_said_beside_it(tmp_path: Path, argv: list[str], said: str) -> None:
    (tmp_path / "serve.yaml").write_text(CONFIG)
    answer = salver(*argv, cwd=tmp_path)
    assert answer.returncode == 2
    assert said in answer.stderr


def test_a_dry_run_only_checks(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(APP)
    (tmp_path / "serve.yaml").write_text(CONFIG)
    answer = salver("deploy", "serve.yaml", "--dry-run", cwd=tmp_path)
    assert (answer.returncode, without_progress(answer.stderr)) == (0, ["serve.yaml is in order."])
    (tmp_path / "serve.yaml").write_text(WRONG)
    assert salver("deploy", "serve.yaml", "--dry-run", cwd=tmp_path).returncode == 2


# --- run --------------------------------------------------------------------------------------------------


def test_a_config_file_runs(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("serve.yaml", files={"hello.py": APP, "serve.yaml": CONFIG})
    status = run.status()
    assert status["instance"]["url"] == "http://models.example"
    assert {name: each["status"] for name, each in status["applications"].items()} == {
        "one": "RUNNING",
        "two": "RUNNING",
    }
    url = run.url.rstrip("/")
    assert get(f"{url}/one").body == f"hello from {tmp_path.name}"
    assert get(f"{url}/two").body == f"hello from {tmp_path.name} again"
    assert status["applications"]["two"]["deployments"]["Hello"]["target_num_replicas"] == 2

    shown = list(yaml.safe_load_all(run.cli("config").stdout))
    assert [each["name"] for each in shown] == ["one", "two"]
    assert shown[1]["args"] == {"replicas": "2"}
    only = run.cli("config", "--name", "one", "--json")
    assert json.loads(only.stdout)["import_path"] == "hello:app"

    everything = run.processes()
    run.interrupt()
    assert run.wait(WITHIN_S) == 0
    run.assert_gone(everything, WITHIN_S)


def test_flags_win_over_the_file(salver_run: Run) -> None:
    config = CONFIG.replace("port: 0", "port: 1")
    run = salver_run("serve.yaml", "--port", "0", files={"hello.py": APP, "serve.yaml": config})
    assert run.port != 1
    assert get(f"{run.url.rstrip('/')}/one").status == 200


def test_an_application_that_cannot_be_built_fails_the_run(salver_run: Run, tmp_path: Path) -> None:
    files = {"hello.py": "raise RuntimeError('not today')", "serve.yaml": CONFIG}
    run = salver_run("serve.yaml", files=files, wait_ready=False)
    assert run.wait(WITHIN_S) == 1
    assert "RuntimeError: not today" in run.output()
    assert "hello.py" in run.output()
    assert not list(run.runtime.glob("salver/[0-9]*"))


# --- deploy -----------------------------------------------------------------------------------------------


def test_deploy_brings_changes_and_deletes(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(APP)
    (tmp_path / "serve.yaml").write_text(DEPLOYED)
    run = salver_start("--foreground")
    url = run.url.rstrip("/")
    deployed = run.cli("deploy", "serve.yaml", timeout=WITHIN_S)
    assert deployed.returncode == 0, deployed.stderr
    assert deployed.stdout == ""
    lines = without_progress(deployed.stderr)
    assert lines[0] == "Sent deploy request successfully."
    assert "one: RUNNING" in lines
    assert "two/Hello: HEALTHY, 2/2 replicas" in lines
    assert get(f"{url}/one").status == get(f"{url}/two").status == 200
    replicas = run.pids()["replica"]

    again = run.cli("deploy", "serve.yaml", timeout=WITHIN_S)
    assert again.returncode == 0
    assert run.pids()["replica"] == replicas, "nothing has changed: nothing restarts"

    only_one = DEPLOYED.partition("  - name: two")[0]
    (tmp_path / "serve.yaml").write_text(only_one)
    assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
    eventually("the other is gone", lambda: set(run.status()["applications"]) == {"one"}, WITHIN_S)


def test_a_deploy_that_fails_shows_the_replica_s_traceback(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        APP.replace("    def __call__", "    def __init__(self):\n        1 / 0\n\n    def __call__")
    )
    (tmp_path / "serve.yaml").write_text(DEPLOYED)
    run = salver_start("--foreground")
    deployed = run.cli("deploy", "serve.yaml", timeout=WITHIN_S)
    assert deployed.returncode == 1
    assert "ZeroDivisionError" in deployed.stderr
    assert "hello.py" in deployed.stderr
    assert "Traceback (most recent call last)" in deployed.stderr
    assert run.cli("status").returncode == 0


def test_no_wait_returns_when_it_is_accepted(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    (tmp_path / "serve.yaml").write_text(DEPLOYED)
    run = salver_start("--foreground")
    deployed = run.cli("deploy", "serve.yaml", "--no-wait", timeout=WITHIN_S)
    assert (deployed.returncode, deployed.stderr) == (0, "Sent deploy request successfully.\n")
    assert run.status()["applications"]["one"]["status"] == "DEPLOYING"


def test_what_build_writes_deploys(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hello.py").write_text(APP)
    run = salver_start("--foreground")
    built = run.cli("build", "hello:app", "--app-dir", "code", "-o", "built.yaml")
    assert (built.returncode, built.stdout) == (0, ""), built.stderr
    deployed = run.cli("deploy", "built.yaml", "--app-dir", "code", timeout=WITHIN_S)
    assert deployed.returncode == 0, deployed.stderr
    assert get(run.url).body == "hello from code"


def test_build_shows_the_user_s_errors(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("raise RuntimeError('not today')")
    answer = salver("build", "hello:app", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "RuntimeError: not today" in answer.stderr


def test_a_killed_build_is_told(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    answer = salver("build", "hello:app", cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "Error: the process `salver: build` was killed by SIGKILL.\n"


def test_the_schema_is_json(tmp_path: Path) -> None:
    answer = salver("config", "--schema", cwd=tmp_path)
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_code_has_no_config(salver_run: Run) -> None:
    run = salver_run("hello:app", "--port", "0", files={"hello.py": APP})
    answer = run.cli("config")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "No config has been deployed." in answer.stderr
    assert run.cli("config", "--name", "nobody").returncode == 1
