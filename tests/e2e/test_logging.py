"""Where lines go and in which form; what is printed; readers that stop, disks that are full."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.http import get
from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.waiting import eventually

WITHIN_S = 30.0

TALKER = """
import logging
import multiprocessing
import os
import sys
from salver import serve

logger = logging.getLogger("ray.serve")

def in_a_child():
    logger.info("logged in a child")
    print("printed in a child")

@serve.deployment
class Talker:
    def __init__(self):
        print("constructed", flush=True)

    def __call__(self, request):
        said = request.query_params.get("said", "")
        logger.info("said %s", said, extra={"api_token": "hidden", "model": "m"})
        print("printed", said)
        sys.stderr.write("unfinished ")
        sys.stderr.write("line\\n")
        if said == "child":
            child = multiprocessing.get_context("fork").Process(target=in_a_child)
            child.start()
            child.join()
        if said == "exit":
            os._exit(3)
        return "ok"

app = Talker.bind()
"""


def logs(run: SalverRun) -> Path:
    [folder] = run.runtime.glob("salver/logs/*")
    return folder


def replica_log(run: SalverRun) -> Path:
    [path] = eventually("its log is there", lambda: list(logs(run).glob("replica_*.log")), WITHIN_S)
    return path


def talk(salver_run: Callable[..., SalverRun], *flags: str) -> SalverRun:
    return salver_run("app:app", "--port", "0", *flags, files={"app.py": TALKER})


def test_text_on_the_console_and_in_the_file(salver_run: Callable[..., SalverRun]) -> None:
    run = talk(salver_run)
    request_id = get(f"{run.url}?said=x").headers["x-request-id"]
    run.wait_for_output(rf"INFO \S+ \S+ replica default#Talker#\S+ {request_id} -- app\.py:\d+ said x\n")
    run.wait_for_output(r"\nprinted x\n")
    run.wait_for_output(r"\nunfinished line\n")
    path = replica_log(run)
    assert path.name.startswith("replica_default_Talker_")
    eventually("all is in the file", lambda: path.read_text().count("\n") == 4, WITHIN_S)
    messages = [line.split(" ", 4)[4] for line in path.read_text().splitlines()]
    replica_id = messages[0].split()[0]
    assert [message.replace(f" {request_id}", "", 1) for message in messages] == [
        f"{replica_id} -- constructed",
        f"{replica_id} -- app.py:{TALKER[: TALKER.index('said %s')].count(chr(10)) + 1} said x",
        f"{replica_id} -- printed x",
        f"{replica_id} -- unfinished line",
    ]
    assert [request_id in message for message in messages] == [False, True, True, True]
    assert path.stat().st_mode & 0o777 == 0o600
    assert logs(run).stat().st_mode & 0o777 == 0o700


def test_json_is_an_object_per_line_also_of_what_is_printed(salver_run: Callable[..., SalverRun]) -> None:
    run = talk(salver_run, "--log-format", "json")
    request_id = get(f"{run.url}?said=x").headers["x-request-id"]
    run.wait_for_output('"message":"unfinished line"')
    lines: list[dict[str, Any]] = [json.loads(line) for line in run.output().splitlines() if line.startswith("{")]
    said = next(line for line in lines if line["message"] == "said x")
    assert {"asctime", "levelname", "message", "filename", "lineno", "component_name", "component_id"} <= {*said}
    assert (said["application"], said["deployment"], said["route"]) == ("default", "Talker", "/")
    assert said["replica"] == said["component_id"]
    assert (said["request_id"], said["filename"], said["model"]) == (request_id, "app.py", "m")
    assert said["api_token"] == "<redacted>"
    printed = next(line for line in lines if line["message"] == "printed x")
    assert (printed["request_id"], printed["filename"]) == (request_id, "<stdout>")
    assert "\nprinted x\n" not in run.output()
    eventually("the file is JSON, too", lambda: '"unfinished line"' in replica_log(run).read_text(), WITHIN_S)


def test_level_and_folder(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    folder = tmp_path / "my" / "logs"
    run = talk(salver_run, "--log-level", "warning", "--logs-dir", str(folder))
    get(f"{run.url}?said=x")
    run.wait_for_output("printed x")
    eventually("the file is there", lambda: len(list(folder.glob("replica_*.log"))) == 1, WITHIN_S)
    assert "said x" not in run.output()
    assert logs(run).resolve() == folder
    assert run.cli("logs", "--instance", run.name, "--component", "replica").stdout.count("printed x") == 1


def test_a_deployment_logs_as_it_says_itself(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    own = tmp_path / "own"
    config = f"""logging_config={{"encoding": "JSON", "log_level": "DEBUG", "logs_dir": {str(own)!r},
        "additional_log_standard_attrs": ["threadName"]}}"""
    source = TALKER.replace("@serve.deployment\n", f"@serve.deployment({config})\n")
    run = salver_run("app:app", "--port", "0", files={"app.py": source})
    get(f"{run.url}?said=x")
    eventually("its file is there", lambda: any("said x" in each.read_text() for each in own.glob("*")), WITHIN_S)
    [path] = own.glob("replica_*.log")
    assert all("threadName" in json.loads(line) for line in path.read_text().splitlines())
    run.wait_for_output(r"INFO \S+ \S+ proxy ")


def test_last_words_arrive(salver_run: Callable[..., SalverRun]) -> None:
    """A process that is gone in the next moment has said on the console what it said before."""
    run = talk(salver_run)
    get(f"{run.url}?said=exit")
    run.wait_for_output(r"-- app\.py:\d+ said exit\n")
    run.wait_for_output(r"\nprinted exit\n")


def test_children_of_user_code_log_as_well(salver_run: Callable[..., SalverRun]) -> None:
    run = talk(salver_run)
    get(f"{run.url}?said=child")
    run.wait_for_output(r"replica default#Talker#\S+ \S+ -- app\.py:\d+ logged in a child\n")
    run.wait_for_output(r"\nprinted in a child\n")
    eventually("the file has it, too", lambda: "logged in a child" in replica_log(run).read_text(), WITHIN_S)


def test_files_stay_when_the_instance_ends_and_only_ten_do(salver_run: Callable[..., SalverRun]) -> None:
    run = talk(salver_run)
    kept = logs(run).parent
    for number in range(12):
        (kept / f"old{number}-20200101T0000{number:02d}-0000").mkdir()
    run.interrupt()
    run.wait(60)
    other = salver_run("app:app", "--port", "0", beside=run)
    left = sorted(each.name for each in kept.iterdir())
    assert len(left) == 10
    assert "old3-20200101T000003-0000" not in left
    assert "old4-20200101T000004-0000" in left
    other.interrupt()
    other.wait(60)


def test_a_detached_instance_writes_to_files_only(salver_run: Callable[..., SalverRun]) -> None:
    run = talk(salver_run, "--non-blocking")
    get(f"{run.url}?said=x")
    eventually("it is in the file", lambda: "said x" in replica_log(run).read_text(), WITHIN_S)
    assert "said x" not in run.output()
    assert (logs(run) / "supervisor_output.log").read_text() == ""


def latencies(url: str, requests: int) -> list[float]:
    found: list[float] = []
    for _ in range(requests):
        start = time.perf_counter()
        assert get(url).status == 200
        found.append(time.perf_counter() - start)
    return sorted(found)


LOUD = """
from salver import serve
import logging

@serve.deployment
class Loud:
    async def __call__(self, request):
        logging.getLogger("ray.serve").info("x" * 20_000)
        print("y" * 20_000)
        return "ok"

app = Loud.bind()
"""


def start_with_a_reader_that_stops(tmp_path: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A ``salver run`` whose output nobody reads after its Ready line."""
    (tmp_path / "app.py").write_text(LOUD)
    process = subprocess.Popen(
        command_line(("salver", "run", "app:app", "--port", "0")),
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    url = ""
    for line in process.stderr:
        if line.startswith(b"Ready in "):
            url = line.decode().split()[-1]
        elif url and b"Loud" in line:  # the command has said all that it says
            return process, url
    raise AssertionError("not ready")


@pytest.mark.parametrize("reader", ["stops", "leaves"])
def test_a_reader_that_stops_or_leaves_stops_nobody(tmp_path: Path, reader: str) -> None:
    process, url = start_with_a_reader_that_stops(tmp_path)
    assert process.stderr is not None
    if reader == "leaves":
        process.stderr.close()
    try:
        found = latencies(url, 800)  # 32 MB of lines into a pipe of 64 KiB and queues of 4 MiB
        assert found[int(0.99 * len(found))] < 2.0, "it would be for ever if anybody waited"
        if reader == "leaves":
            return
        text = b""
        deadline = time.monotonic() + WITHIN_S
        while b"log lines were dropped that stderr could not take" not in text:
            assert time.monotonic() < deadline, text[-1000:]
            if select.select([process.stderr], [], [], 0.1)[0]:
                text += os.read(process.stderr.fileno(), 65536)
            latencies(url, 1)
    finally:
        process.terminate()
        if not process.stderr.closed:
            process.stderr.close()
        process.wait(60)


IN_A_NAMESPACE = """
import json, os, sys, time, urllib.request
import full
from salver import serve
from salver.controller.http_exchange import exchange
from salver.serve.session import current_session

def lost():
    socket = current_session().instance.control_socket
    families = json.loads(exchange(socket, "GET", "/api/serve/metrics", None, 30)[1])
    [dropped] = [each for each in families if each["name"] == "salver_log_dropped_total"] or [{"series": []}]
    return sum(each["value"] for each in dropped["series"] if "replica_default_Full" in each["tags"]["outlet"])

serve.start(http_options={"port": 0}, logging_config={"logs_dir": "full"})
serve.run(full.app)
handle = serve.get_app_handle("default")
for _ in range(200):
    assert handle.say.remote("x" * 2000).result(timeout_s=30) == "ok"
os.unlink([each.path for each in os.scandir("full") if each.name.startswith("replica")][0])
deadline = time.monotonic() + 30
while not any("after" in open(each.path).read() for each in os.scandir("full")):
    assert time.monotonic() < deadline
    assert handle.say.remote("after").result(timeout_s=30) == "ok"
while not lost():
    assert time.monotonic() < deadline
print("served")
"""

FULL = """
import logging
from salver import serve

@serve.deployment
class Full:
    def say(self, text):
        logging.getLogger("ray.serve").info(text)
        return "ok"

app = Full.bind()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_full_disk_stops_nobody_and_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(IN_A_NAMESPACE)
    (tmp_path / "full.py").write_text(FULL)
    (tmp_path / "full").mkdir()
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path / "full")]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = 'mount -t tmpfs -o size=64k tmpfs full && exec "$0" driver.py'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("served\n")
    notes = [line for line in done.stderr.splitlines() if "dropped" in line]
    assert len(notes) == 2, notes
    assert "No space left on device" in notes[0]
    assert "it works again" in notes[1]
