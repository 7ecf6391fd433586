"""``salver logs``: the processes' files as one log, while the instance runs and afterwards."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.http import get
from harness.instance import SalverRun, command_line
from harness.waiting import eventually

WITHIN_S = 30.0

APPS = """
import logging
from salver import serve

logger = logging.getLogger("ray.serve")

@serve.deployment
class Child:
    def say(self, text):
        logger.info("child says %s", text)

@serve.deployment
class Parent:
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        text = request.query_params["text"]
        logger.info("parent says %s", text)
        await self.child.say.remote(text)
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("with a traceback")
        return "ok"

app = Parent.bind(Child.bind())
"""


SAID = ("parent says one", "child says one", "GET / 200")


@pytest.fixture
def run(salver_run: Callable[..., SalverRun]) -> SalverRun:
    return after_a_request(salver_run("app:app", "--port", "0", "--name", "first", files={"app.py": APPS}))


@pytest.fixture(scope="module")
def shared(module_run: Callable[..., SalverRun]) -> SalverRun:
    """For those who only read."""
    return after_a_request(module_run("app:app", "--name", "first", files={"app.py": APPS}))


def after_a_request(run: SalverRun) -> SalverRun:
    get(f"{run.url}?text=one")
    whole = {*SAID, "ValueError: one\n"}  # each process writes its own file, when it comes to it
    eventually("all of the request is in the log", lambda: all(map(logs(run).__contains__, whole)), WITHIN_S)
    return run


def logs(run: SalverRun, *arguments: str) -> str:
    answer = run.cli("logs", *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_all_processes_in_the_order_of_time(shared: SalverRun) -> None:
    text = logs(shared)
    assert text.index("parent says one") < text.index("child says one") < text.index("with a traceback")
    times = re.findall(r"^[A-Z]+ (\S+ \S+) (?:replica|proxy|controller) ", text, re.MULTILINE)
    assert times == sorted(times)


def test_what_is_asked_for(shared: SalverRun) -> None:
    run = shared
    assert {"parent says one", "child says one", "GET / 200"} == said(logs(run, "first"))
    assert said(logs(run, "first/Child")) == {"child says one"}
    assert said(logs(run, "second")) == set()
    assert said(logs(run, "--component", "proxy")) == {"GET / 200"}
    parent = logs(run, "first/Parent")
    assert "ValueError: one\n" in parent, "lines of a traceback belong to their record"
    replica = re.search(r"replica first#Parent#(\S+)", parent)
    assert replica
    assert said(logs(run, "--replica", replica[1])) == {"parent says one"}
    assert logs(run, "first/Parent", "-n", "1").startswith("ERROR ")
    for asked in (["logs", "first/Parnet"], ["logs", "--replica", "x"]):
        assert "No line of the log is about that." in run.cli(*asked).stderr
    assert "Nothing is known to have happened to first/Parnet." in run.cli("events", "first/Parnet").stderr
    assert run.cli("events", "first").stderr == ""


def said(text: str) -> set[str]:
    return {each for each in SAID if each in text}


def test_json_whatever_the_files_have(shared: SalverRun) -> None:
    records: list[dict[str, Any]] = [json.loads(line) for line in logs(shared, "first", "--json").splitlines()]
    child = next(record for record in records if "child says" in record["message"])
    access = next(record for record in records if "GET /" in record["message"])
    assert (child["application"], child["deployment"], child["levelname"]) == ("first", "Child", "INFO")
    assert child["request_id"] == access["request_id"]
    assert (access["method"], access["path"], access["status"], access["route"]) == ("GET", "/", 200, "/")
    failed = next(record for record in records if record["message"] == "with a traceback")
    assert failed["exc_info"].endswith("\nValueError: one")
    assert failed["filename"] == "app.py"


def test_of_the_one_that_ended_last(run: SalverRun) -> None:
    before = logs(run)
    run.interrupt()
    run.wait(60)
    after = run.cli("logs")
    assert after.stdout.startswith(before[:1000])
    assert "has ended; its logs are in " in after.stderr
    assert run.cli("logs", "--instance", run.name).stdout == after.stdout
    unknown = run.cli("logs", "--instance", "unknown")
    assert unknown.returncode == 1
    assert "no logs of an instance named 'unknown'" in unknown.stderr


@pytest.fixture
def following(run: SalverRun) -> Any:
    process = subprocess.Popen(
        command_line(("salver", "logs", "-f", "-n", "0")),
        cwd=run.cwd,
        env=run._environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def read_until(process: subprocess.Popen[str], part: str, ask: Callable[[], object]) -> None:
    assert process.stdout is not None
    ask()
    while part not in process.stdout.readline():
        ask()  # it may not have begun to follow


@pytest.mark.timeout(100)
def test_follow_until_ctrl_c(run: SalverRun, following: subprocess.Popen[str]) -> None:
    def ask() -> None:
        get(f"{run.url}?text=two")

    eventually("it follows", lambda: ask() or readable(following), WITHIN_S)
    read_until(following, "child says two", ask)
    following.send_signal(signal.SIGINT)
    assert following.wait(30) == 0
    assert following.stderr is not None
    assert following.stderr.read() == ""


def readable(process: subprocess.Popen[str]) -> bool:
    import select

    return bool(select.select([process.stdout], [], [], 0.2)[0])


@pytest.mark.timeout(100)
def test_follow_until_the_instance_ends(run: SalverRun, following: subprocess.Popen[str]) -> None:
    eventually("it follows", lambda: get(f"{run.url}?text=two") and readable(following), WITHIN_S)
    run.interrupt()
    run.wait(60)
    assert following.wait(30) == 0
    assert following.stderr is not None
    assert following.stderr.read() == "The instance has ended.\n"


ELSEWHERE = """
applications:
  - name: apart
    route_prefix: /apart
    import_path: app:app
    logging_config: {logs_dir: LOGS, enable_access_log: false}
  - name: usual
    route_prefix: /usual
    import_path: app:app
"""


def test_an_application_with_a_folder_of_its_own_and_without_an_access_log(
    salver_run: Callable[..., SalverRun], tmp_path: Path
) -> None:
    own = tmp_path / "own" / "logs"
    files = {"app.py": APPS, "config.yaml": ELSEWHERE.replace("LOGS", str(own))}
    run = salver_run("config.yaml", "--port", "0", files=files)
    for name in ("apart", "usual"):
        assert get(f"{run.url}{name}?text={name}").status == 200

    def shown(*of: str) -> str:
        return run.cli("logs", *of).stdout

    eventually(
        "both are shown", lambda: all(f"child says {name}" in shown() for name in ("apart", "usual")), WITHIN_S
    )
    assert len(list(own.glob("replica_*.log"))) == 2
    assert "ValueError: apart" in shown("apart/Parent")
    assert shown().count("child says apart") == 1
    eventually("its line is there", lambda: "application=usual" in shown("--component", "proxy"), WITHIN_S)
    assert "application=apart" not in shown("--component", "proxy")
