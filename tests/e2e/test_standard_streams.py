"""stdin, stdout and stderr that are closed, or that nobody reads: instances start, heal and end all the same."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.http import get
from harness.instance import command_line, new_runtime_folder
from harness.processes import by_role, descendants, living
from harness.waiting import eventually
from harness.worker import WORKER
from salver.controller.client import ControlClient
from salver.controller.http_exchange import exchange
from salver.views import ApplicationView

WITHIN_S = 60.0
APPLICATION = WORKER.replace("REPLICAS", "1").replace(
    "return str(os.getpid())", 'print("p" * 5_000)\n        return str(os.getpid())'
)
SCRIPT = """
import signal
import worker
from salver import serve

serve.start(http_options={"port": 0})
serve.run(worker.app)
signal.sigwait({signal.SIGINT})
serve.shutdown()
"""
COMMAND = command_line(("salver", "run", "worker:app", "--port", "0"))
DRIVER = [sys.executable, "driver.py"]


class Started:
    """An instance that does not say where it is.

    Attributes:
        process: what started it.
        runtime: its XDG_RUNTIME_DIR.
    """

    def __init__(self, process: subprocess.Popen[bytes], runtime: Path) -> None:
        self.process = process
        self.runtime = runtime

    def wait_served(self) -> None:
        info = eventually("it is there", self._info, WITHIN_S)
        self.url, self.supervisor_pid = f"http://127.0.0.1:{info['port']}/", int(info["pid"])
        self.folder = self.runtime / "salver" / str(info["name"])
        self.control = ControlClient(self.folder / "control.sock")
        eventually("the application runs", lambda: [each.status for each in self.views()] == ["RUNNING"], WITHIN_S)

    def _info(self) -> dict[str, Any]:
        assert self.process.poll() is None, "it has ended"
        for path in self.runtime.glob("salver/*/instance.json"):
            return json.loads(path.read_bytes())
        return {}

    def views(self) -> tuple[ApplicationView, ...]:
        return self.control.status().applications

    def pids(self) -> list[int]:
        return [self.process.pid, self.supervisor_pid, *descendants(self.supervisor_pid)]

    def kill_one_after_the_other(self) -> None:
        """Controller, proxy, replica: each is replaced, and serves."""
        for role in ("controller", "proxy", "replica"):
            (pid,) = by_role(self.supervisor_pid)[role]
            os.kill(pid, signal.SIGKILL)
            eventually(
                f"another {role}",
                lambda role=role, pid=pid: by_role(self.supervisor_pid)[role] not in ([], [pid]),
                WITHIN_S,
            )
            eventually("it serves", lambda: get(self.url).status == 200, WITHIN_S)

    def log(self, component: str) -> str:
        files = (self.folder / "logs").resolve().glob(f"{component}_*.log")
        return "".join(path.read_text() for path in sorted(files))


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """``start(*argv, output=…)``: a process; ``closing`` is what a shell is told to do before."""
    started: list[Started] = []

    def run(*argv: str, closing: str = "", output: int = subprocess.DEVNULL) -> Started:
        (tmp_path / "worker.py").write_text(APPLICATION)
        (tmp_path / "driver.py").write_text(SCRIPT)
        runtime = new_runtime_folder()
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {closing}', "sh", *argv],
            cwd=tmp_path,
            env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        started.append(Started(process, runtime))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait(WITHIN_S)


def kinds(pid: int) -> set[str]:
    """What its descriptors 0 to 2 are."""
    modes = [os.stat(f"/proc/{pid}/fd/{number}").st_mode for number in range(3)]
    return {stat.filemode(mode)[0] for mode in modes}


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("argv", [COMMAND, DRIVER], ids=["command", "script"])
def test_who_has_no_standard_streams_serves_as_well(start: Start, argv: list[str], closing: str) -> None:
    run = start(*argv, closing=closing)
    run.wait_served()
    assert get(run.url).status == 200
    run.kill_one_after_the_other()
    everything = run.pids()
    assert {kind for pid in everything for kind in kinds(pid)} <= {"c", "-"}, "none of them is a socket"
    eventually("what is printed is in the log file", lambda: "p" * 5_000 in run.log("replica"), WITHIN_S)
    assert "starting it again" in run.log("supervisor")
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(WITHIN_S) == 0
    eventually("all has ended", lambda: not living(everything), WITHIN_S)


@pytest.mark.parametrize("reader", ["stops", "leaves"])
def test_whose_output_nobody_reads_heals_and_ends(start: Start, reader: str) -> None:
    """What nobody reads fills its pipe, and then there is no room for what supervisor, controller and command say."""
    read_end, write_end = os.pipe()
    run = start(*COMMAND, output=write_end)
    try:
        run.wait_served()
        if reader == "leaves":
            os.close(read_end)
        for _ in range(40):  # 200 KB, and a pipe holds 64
            assert get(run.url).status == 200
        run.kill_one_after_the_other()
        if reader == "leaves":
            eventually("what is lost is counted", lambda: dropped(run) > 0, WITHIN_S)
        if reader == "stops":
            fill(write_end)
        everything = run.pids()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(WITHIN_S) == 0
        eventually("all has ended", lambda: not living(everything), WITHIN_S)
    finally:
        os.close(write_end)
        if reader == "stops":
            os.close(read_end)


def fill(pipe: int) -> None:
    """Leave no room for a single byte."""
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(own, b"x" * size)
    finally:
        os.close(own)


def dropped(run: Started) -> float:
    """Log lines that the metrics count as lost on the way to stdout and stderr."""
    status, body = exchange(run.folder / "control.sock", "GET", "/api/serve/metrics", None, WITHIN_S)
    assert status == 200
    families = [each for each in json.loads(body) if each["name"] == "salver_log_dropped_total"]
    series = [each for family in families for each in family["series"]]
    return sum(each["value"] for each in series if each["tags"]["outlet"] in {"stdout", "stderr"})
