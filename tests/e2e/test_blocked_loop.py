"""Replicas that live and do not answer: their loop is blocked, they are stopped, or native code holds the GIL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.http import Answer, get, get_later
from harness.instance import SalverRun, command_line
from harness.processes import is_alive
from harness.waiting import Patience, eventually
from salver.controller.client import ControlClient

WARNED_S = 1.5
ROUTING_STOPS_S = 2.5
SLACK_S = 5.0
"""What a loaded test machine may add."""

BLOCKING = """
import asyncio, ctypes, os, time
from salver import serve

def wait_blocking(seconds):
    time.sleep(seconds)

@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=50)
class Translator:
    async def __call__(self, request):
        what = request.query_params.get("what", "nothing")
        seconds = float(request.query_params.get("s", "0"))
        if what == "block":
            wait_blocking(seconds)
        elif what == "hold":
            await asyncio.sleep(seconds)
        elif what == "thread":
            await asyncio.to_thread(wait_blocking, seconds)
        elif what == "native":
            ctypes.PyDLL(None).sleep(int(seconds))
        elif what == "memory":
            self.hoard = [bytearray(os.urandom(1)) * (16 << 20) for _ in range(64)]
        return str(os.getpid())

class Slow:
    def __init__(self):
        time.sleep(3)

    def __call__(self, request):
        time.sleep(2.5)
        return "fine"

app = Translator.bind()
slow = serve.deployment(Slow).bind()
"""


def start(salver_run: Callable[..., SalverRun], replicas: int = 1, target: str = "app") -> SalverRun:
    source = BLOCKING.replace("REPLICAS", str(replicas))
    return salver_run(f"blocking:{target}", "--port", "0", files={"blocking.py": source})


def test_the_log_says_where_the_loop_is_blocked(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run)
    answer = get_later(f"{run.url}?what=block&s=4")
    line = BLOCKING[: BLOCKING.index("    time.sleep(seconds)")].count("\n") + 1
    run.wait_for_output(
        rf"the event loop of Translator has been blocked for 1 s at blocking\.py:{line} in wait_blocking\. .*"
        r"`def` .* `await asyncio\.to_thread\(\.\.\.\)`",
        WARNED_S + SLACK_S,
    )
    assert not answer.done()
    assert answer.result(30).status == 200
    run.wait_for_output(r"the event loop of Translator answers again after \d\.\d s")
    assert run.output().count("has been blocked") == 1
    assert '/blocking.py", line ' in run.output()
    assert "salver/data" not in run.output()


def test_what_does_not_block_the_loop_is_no_reason_to_warn(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run)
    assert [get(f"{run.url}?what={what}&s=2.5").status for what in ("hold", "thread")] == [200, 200]
    assert "blocked" not in run.output()


def test_constructors_may_take_their_time_and_threads_too(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, target="slow")
    assert get(run.url).body == "fine"
    assert "blocked" not in run.output()


# --- routing ----------------------------------------------------------------------------------------------


def answered_by(run: SalverRun) -> int:
    """Which replica answers; 0 when none does within a second."""
    try:
        answer = get(run.url, timeout=1.0)
    except OSError:
        return 0
    return int(answer.body) if answer.status == 200 else 0


def busy_replicas(run: SalverRun) -> list[int]:
    """Pids of those that run a request."""
    (application,) = ControlClient(run.folder / "control.sock").status().applications
    (deployment,) = application.deployments
    return [each.pid for each in deployment.replicas if each.ongoing and each.pid]


def silenced(run: SalverRun, silent: int, within: Patience) -> None:
    """Check that requests go to the other replica from some moment on, and that this comes soon enough."""
    (other,) = set(run.pids()["replica"]) - {silent}
    busy = get_later(f"{run.url}?what=hold&s=12")  # the other one runs as much as the silent one then
    eventually("it has come to the other", lambda: other in busy_replicas(run))
    eventually(
        "twenty requests in a row are answered",
        lambda: all(answered_by(run) == other for _ in range(20)),
        within,
    )
    assert busy.result(30).status == 200


def comes_back(run: SalverRun, pid: int) -> None:
    eventually("it serves again", lambda: answered_by(run) == pid, 30)
    assert len(run.pids()["replica"]) == 2


def test_a_blocked_replica_gets_no_requests_after_two_seconds(salver_run: Callable[..., SalverRun]) -> None:
    run = start(salver_run, replicas=2)
    within = Patience(ROUTING_STOPS_S + SLACK_S)
    answer = get_later(f"{run.url}?what=block&s=14")
    run.wait_for_output("has been blocked", WARNED_S + SLACK_S)
    (blocked,) = busy_replicas(run)
    silenced(run, blocked, within)
    assert answer.result(30) == Answer(200, str(blocked), answer.result().headers)
    comes_back(run, blocked)


@pytest.mark.parametrize("how", ["stopped", "native"])
def test_a_hung_replica_gets_no_requests_and_is_not_killed_when_it_comes_back(
    salver_run: Callable[..., SalverRun], how: str
) -> None:
    run = start(salver_run, replicas=2)
    within = Patience(ROUTING_STOPS_S + SLACK_S)
    answer = get_later(f"{run.url}?what={'native' if how == 'native' else 'hold'}&s=14")
    (hung,) = eventually("it runs in one of them", lambda: busy_replicas(run))
    if how == "stopped":
        os.kill(hung, signal.SIGSTOP)
    silenced(run, hung, within)
    if how == "stopped":
        os.kill(hung, signal.SIGCONT)
    assert answer.result(30) == Answer(200, str(hung), answer.result().headers)
    comes_back(run, hung)
    assert "has been blocked" not in run.output(), "nobody can say that of a process that does not run"


# --- out of memory ------------------------------------------------------------------------------------------


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A cgroup of ours that may use little memory; version 1 or 2, whichever can be written here."""
    folder = _own_memory_cgroup() / f"salver-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (folder / name).exists():
                (folder / name).write_text(str(400 << 20))
                break
        else:
            pytest.skip("the cgroup has no limit of memory")
        yield folder
        eventually("its processes end", lambda: not (folder / "cgroup.procs").read_text().split())
    finally:
        folder.rmdir()


def _own_memory_cgroup() -> Path:
    root = Path("/sys/fs/cgroup")
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            own = root / "memory" / path.lstrip("/")
            return own if own.exists() else root / "memory"
    return root / next((path.lstrip("/") for _, controllers, path in lines if not controllers), "")


def test_the_kernel_s_killing_for_memory_is_told_from_any_other(memory_cgroup: Path, tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING.replace("REPLICAS", "1"))
    salver = command_line(("salver", "run", "blocking:app", "--port", "0"))
    run = SalverRun.start(
        "sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(memory_cgroup), *salver, cwd=tmp_path
    )
    try:
        (first,) = run.pids()["replica"]
        os.kill(first, signal.SIGKILL)
        run.wait_for_output(r"killed by SIGKILL(?! \(out of memory\))")
        second = eventually("the next one serves", lambda: answered_by(run), 30)
        assert get(f"{run.url}?what=memory").status == 502
        run.wait_for_output(r"killed by SIGKILL \(out of memory\)")
        third = eventually("the next one serves", lambda: answered_by(run), 30)
        assert len({first, second, third}) == 3
        os.kill(third, signal.SIGKILL)
        eventually("the next one serves", lambda: not is_alive(third) and answered_by(run), 30)
        assert run.output().count("(out of memory)") == 1
    finally:
        run.stop()
