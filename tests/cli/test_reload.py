"""``salver run --reload``: an edit is served, a broken edit is shown, what did not change does not restart."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

from harness.http import get, get_later
from harness.instance import SalverRun
from harness.processes import is_alive, title
from harness.waiting import eventually, let_pass

WITHIN_S = 60.0
Run = Callable[..., SalverRun]

APP = """
import os
from salver import serve

@serve.deployment
class Hello:
    def __call__(self, request):
        return "WORD"

app = Hello.bind()
"""


def source(word: str) -> str:
    return APP.replace("WORD", word)


def test_an_edit_is_served_and_a_broken_one_is_shown(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": source("first")})
    assert get(run.url).body == "first"

    (tmp_path / "hello.py").write_text(source("second"))
    run.wait_for_output(r"Changed: hello\.py\. Deploying again\.", WITHIN_S)
    eventually("the edit is served", lambda: get(run.url).body == "second", WITHIN_S)

    replicas = run.pids()["replica"]
    (tmp_path / "hello.py").write_text(source("third") + "\nraise RuntimeError('half an edit')\n")
    run.wait_for_output("RuntimeError: half an edit", WITHIN_S)
    run.wait_for_output("What ran before, if anything did, goes on. Waiting for a change.", WITHIN_S)
    assert get(run.url).body == "second"
    assert run.pids()["replica"] == replicas
    assert run.is_alive()

    (tmp_path / "hello.py").write_text(source("fourth"))
    eventually("the next edit is served", lambda: get(run.url).body == "fourth", WITHIN_S)
    everything = run.processes()
    run.interrupt()
    assert run.wait(WITHIN_S) == 0
    run.assert_gone(everything, WITHIN_S)


def test_while_the_first_build_fails_requests_wait_for_the_next(salver_run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    files = {"hello.py": "raise RuntimeError('half an edit')\n"}
    run = salver_run("hello:app", "--port", str(port), "--reload", files=files, wait_ready=False)
    run.wait_for_output("Nothing has been deployed yet: requests wait, for 60 s at most. Waiting for a", WITHIN_S)
    early = get_later(f"http://127.0.0.1:{port}/", timeout=WITHIN_S)
    (tmp_path / "hello.py").write_text(source("mended"))
    assert early.result(WITHIN_S).body == "mended"


def test_a_constructor_that_fails_leaves_the_version_before(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": source("first")})
    broken = source("second").replace(
        "    def __call__", "    def __init__(self):\n        1 / 0\n\n    def __call__"
    )
    (tmp_path / "hello.py").write_text(broken)
    run.wait_for_output("ZeroDivisionError", WITHIN_S)
    run.wait_for_output("Waiting for a change", WITHIN_S)
    assert get(run.url).body == "first"


def test_what_is_no_source_restarts_nothing(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": source("first")})
    replicas = run.pids()["replica"]
    (tmp_path / "data.csv").write_text("1,2,3")
    (tmp_path / "hello.py").touch()
    run.wait_for_output(r"Changed: hello\.py\. Deploying again\.", WITHIN_S)
    eventually("it has been deployed again", lambda: run.output().count("Ready in") == 2, WITHIN_S)
    assert "data.csv" not in run.output()
    assert run.pids()["replica"] == replicas, "the content is the same: nothing restarts"


def test_ready_counts_from_the_change(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": source("first")})
    run.wait_for_output(r"Ready in [\d.]+ s", WITHIN_S)
    let_pass(3.0)  # what must not be counted
    before = time.monotonic()
    (tmp_path / "hello.py").write_text(source("second"))
    eventually("it has been deployed again", lambda: len(ready_after(run)) == 2, WITHIN_S)
    took = time.monotonic() - before
    assert ready_after(run)[1] <= took + 0.01, "the line shows hundredths"


def ready_after(run: SalverRun) -> list[float]:
    return [float(seconds) for seconds in re.findall(r"Ready in ([\d.]+) s", run.output())]


def test_a_first_version_that_is_broken_waits_for_an_edit(salver_run: Run, tmp_path: Path) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": "1 / 0\n"}, wait_ready=False)
    run.wait_for_output("Waiting for a change", WITHIN_S)
    (tmp_path / "hello.py").write_text(source("mended"))
    run.wait_ready(WITHIN_S)
    assert get(run.url).body == "mended"


def test_wrong_usage_ends_it_as_without_reload(salver_run: Run) -> None:
    run = salver_run("hello:app", "x", "--port", "0", "--reload", files={"hello.py": source("a")}, wait_ready=False)
    assert run.wait(WITHIN_S) == 2
    assert "Invalid application argument 'x'" in run.output()


def test_the_watcher_ends_with_the_command(salver_run: Run) -> None:
    run = salver_run("hello:app", "--port", "0", "--reload", files={"hello.py": source("a")})
    watchers = [pid for pid in children(run.cli_pid) if title(pid) == "salver: watch"]
    assert len(watchers) == 1
    run.kill()
    eventually("the watcher ends", lambda: not is_alive(watchers[0]), WITHIN_S)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_config_file_is_watched_too(salver_run: Run, tmp_path: Path) -> None:
    config = "http_options: {port: 0}\napplications: [{import_path: 'hello:app', route_prefix: /PREFIX}]\n"
    files = {"hello.py": source("first"), "serve.yaml": config.replace("PREFIX", "a")}
    run = salver_run("serve.yaml", "--reload", files=files)
    url = run.url.rstrip("/")
    assert get(f"{url}/a").body == "first"

    (tmp_path / "hello.py").write_text(source("second"))
    eventually("the edit is served", lambda: get(f"{url}/a").body == "second", WITHIN_S)

    (tmp_path / "serve.yaml").write_text(config.replace("route_prefix", "rout_prefix"))
    run.wait_for_output(r"serve\.yaml:2:\d+: applications\[0\]\.rout_prefix", WITHIN_S)
    assert get(f"{url}/a").body == "second"

    (tmp_path / "serve.yaml").write_text(config.replace("PREFIX", "b"))
    eventually("the new route is served", lambda: get(f"{url}/b").status == 200, WITHIN_S)


def test_watched_sources_are_the_folder_s(salver_run: Run, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hello.py").write_text(source("first"))
    run = salver_run("hello:app", "--port", "0", "--reload", "--app-dir", "code")
    (tmp_path / "code" / "hello.py").write_text(source("second"))
    eventually("the edit is served", lambda: get(run.url).body == "second", WITHIN_S)
