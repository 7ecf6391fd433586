"""The life of applications, operated from the command line by someone who did not write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.http import get
from harness.instance import SalverRun
from harness.processes import living
from harness.terminal import on_a_terminal
from harness.waiting import eventually

WITHIN_S = 60.0
Run = Callable[..., SalverRun]

APP = """
import os
from salver import serve

@serve.deployment(num_replicas=1)
class Hello:
    def __call__(self, request):
        return "VERSION" + os.environ.get("WORD", "")

app = Hello.bind()

@serve.deployment
class Echo:
    def __init__(self, word):
        self.word = word

    def __call__(self, request):
        return self.word

def build(args):
    return Echo.bind(args["word"])
"""


def write(folder: Path, version: str) -> None:
    (folder / "hello.py").write_text(APP.replace("VERSION", version))


def test_the_story_of_an_application(salver_start: Run, tmp_path: Path) -> None:
    run = salver_start()
    assert run.wait(WITHIN_S) == 0
    everything = run.processes()[1:]
    url = run.url.rstrip("/")

    write(tmp_path, "one")
    for word in ("one", "two"):
        where = ("--name", "greeter", "--route-prefix", "/greet")
        deployed = run.cli("deploy", "hello:build", f"word={word}", *where, timeout=WITHIN_S)
        assert deployed.returncode == 0, deployed.stderr
        assert get(f"{url}/greet").body == word

    back = run.cli("rollback", "greeter", timeout=WITHIN_S)
    assert (back.returncode, back.stdout) == (0, ""), back.stderr
    assert "Application greeter runs." in back.stderr
    assert get(f"{url}/greet").body == "one"

    told = run.cli("events")
    kinds = [line.split()[2] for line in told.stdout.splitlines()]
    assert kinds.count("deploy") >= 2
    assert "rollback" in kinds
    assert run.cli("events", "nobody").stdout == ""
    of_json = [json.loads(line) for line in run.cli("events", "--json", "greeter").stdout.splitlines()]
    assert [each["number"] for each in of_json] == sorted(each["number"] for each in of_json)

    gone = run.cli("delete", "greeter", timeout=WITHIN_S)
    assert (gone.returncode, gone.stderr) == (0, "Application greeter is gone.\n")
    assert get(f"{url}/greet").status == 404
    again = run.cli("delete", "greeter")
    assert again.returncode == 1
    assert "There is no application 'greeter'." in again.stderr

    assert run.cli("shutdown", "--yes").returncode == 0
    run.assert_gone(everything, WITHIN_S)


def test_status_shows_everything_as_text_json_and_yaml(salver_run: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_run("hello:app", "--port", "0")
    (replica,) = run.pids()["replica"]
    shown = run.cli("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "default is RUNNING" in shown.stdout
    assert re.search(r"^default +Hello +HEALTHY +1/1 +/ ", shown.stdout, re.MULTILINE)
    assert re.search(rf"^default#Hello#\w+ +RUNNING +\d+s +{replica} +\d+ MB +0/\d+ +\w+", shown.stdout, re.MULTILINE)
    assert "\x1b" not in shown.stdout
    assert "default is RUNNING" in run.cli("status", "--name", "default").stdout
    unknown = run.cli("status", "--name", "nobody")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no application 'nobody'. There are: default." in unknown.stderr

    document = json.loads(run.cli("status", "--json").stdout)
    assert yaml.safe_load(run.cli("status", "--yaml").stdout)["applications"].keys() == {"default"}
    assert document["applications"]["default"]["deployments"]["Hello"]["replicas"][0]["pid"] == replica
    assert json.loads(run.cli("status", "--json", "-n", "default").stdout)["applications"].keys() == {"default"}
    watching = run.cli("status", "--watch")
    assert watching.returncode == 2
    assert "--watch is for terminals" in watching.stderr


def test_scale_asks_for_replicas_where_that_is_allowed(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    config = "applications: [{name: open, import_path: 'hello:app', external_scaler_enabled: true}]"
    (tmp_path / "serve.yaml").write_text(config)
    run = salver_start("--foreground")
    assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
    scaled = run.cli("scale", "open/Hello", "3")
    assert (scaled.returncode, scaled.stderr) == (0, "open/Hello gets 3 replicas.\n")
    eventually("three run", lambda: len(run.pids()["replica"]) == 3, WITHIN_S)
    (tmp_path / "serve.yaml").write_text(config + "\ntarget_capacity: 50")
    assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
    assert (
        run.cli("scale", "open/Hello", "4").stderr == "open/Hello gets 2 replicas: 4 at a target_capacity of 50%.\n"
    )
    assert run.cli("scale", "open/Hello", "1").stderr == "open/Hello gets 1 replica.\n"
    nobody = run.cli("scale", "open/Nobody", "3")
    assert nobody.returncode == 1
    assert "Nobody" in nobody.stderr
    assert (
        run.cli("deploy", "hello:app", "--name", "closed", "--route-prefix", "/c", timeout=WITHIN_S).returncode == 0
    )
    closed = run.cli("scale", "closed/Hello", "2")
    assert closed.returncode == 1
    assert "Traceback" not in closed.stderr


def test_events_follow_until_the_instance_ends(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_start("--foreground")
    environment = {"XDG_RUNTIME_DIR": str(run.runtime)}
    following = SalverRun.launch("salver", "events", "--follow", cwd=tmp_path, env=environment)
    try:
        assert run.cli("deploy", "hello:app", timeout=WITHIN_S).returncode == 0
        following.wait_for_output(r"deploy +default", WITHIN_S)
        run.terminate()
        assert following.wait(WITHIN_S) == 0
        assert "The instance has ended." in following.output()
    finally:
        following.stop()


def test_rollback_needs_something_to_return_to(salver_run: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_run("hello:app", "--port", "0")
    for name in ("default", "nobody"):
        answer = run.cli("rollback", name)
        assert answer.returncode == 1
        assert "Traceback" not in answer.stderr
    assert get(run.url).body == "one"


# --- what an application needs ----------------------------------------------------------------------------


def test_a_runtime_env_of_the_command_line(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    write(tmp_path / "code", "one")
    (tmp_path / "env.yaml").write_text("env_vars: {WORD: ' more'}\n")
    run = salver_start("--foreground")
    deployed = run.cli("deploy", "hello:app", "--runtime-env", "env.yaml", "--working-dir", "code", timeout=WITHIN_S)
    assert deployed.returncode == 0, deployed.stderr
    assert get(run.url).body == "one more"
    as_json = ("--runtime-env-json", '{"env_vars": {"WORD": "!"}}')
    assert run.cli("deploy", "hello:app", "--app-dir", "code", *as_json, timeout=WITHIN_S).returncode == 0
    assert get(run.url).body == "one!"
    wrong = run.cli("deploy", "hello:app", "--runtime-env-json", '{"conda": "x"}')
    assert wrong.returncode == 2
    assert "conda" in wrong.stderr


def test_what_cannot_be_imported_changes_nothing(salver_run: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_run("hello:app", "--port", "0")
    (tmp_path / "hello.py").write_text("def broken(:\n")
    answer = run.cli("deploy", "hello:app")
    assert answer.returncode == 1
    assert "SyntaxError" in answer.stderr
    assert get(run.url).body == "one"


# --- terminals --------------------------------------------------------------------------------------------


def test_progress_is_drawn_on_a_terminal(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_start("--foreground")
    code, output = on_a_terminal(run, "deploy", "hello:app")
    assert code == 0
    assert "1/1 replicas" in output
    assert "\x1b[?25h" in output, "the cursor is back"


def test_the_status_can_be_watched_on_a_terminal(salver_run: Run, tmp_path: Path) -> None:
    write(tmp_path, "one")
    run = salver_run("hello:app", "--port", "0")
    _, output = on_a_terminal(run, "status", "--watch", until="RUNNING")
    assert "APPLICATION" in output


@pytest.mark.parametrize(("typed", "code"), [("n\n", 130), ("y\n", 0)])
def test_a_person_is_asked_before_anything_is_deleted(salver_run: Run, tmp_path: Path, typed: str, code: int) -> None:
    write(tmp_path, "one")
    run = salver_run("hello:app", "--port", "0")
    replicas = run.pids()["replica"]
    answered, output = on_a_terminal(run, "delete", "default", said=typed)
    assert answered == code
    assert "Delete application default? [y/N]" in output
    assert bool(living(replicas)) is (code != 0)
