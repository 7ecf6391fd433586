"""Processes that user code starts: none outlives its replica, none is touched or left a zombie while it lives."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.processes import descendants, is_alive, living, title
from harness.waiting import eventually

PROMISED_S = 1.0
SLACK_S = 4.0
"""What a loaded test machine may add."""

PARENT = """
import os, subprocess, sys, time
from salver import serve

DAEMON = '''
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.execvp("sleep", ["sleep", sys.argv[1]])
'''

def daemon(seconds):
    subprocess.run([sys.executable, "-c", DAEMON, seconds], check=True)

@serve.deployment(num_replicas=REPLICAS)
class Parent:
    def __init__(self):
        self.children = []

    def __call__(self, request):
        what = request.query_params["what"]
        seconds = request.query_params.get("s", "1000")
        getattr(self, what)(seconds)
        return str(os.getpid())

    def nothing(self, seconds):
        pass

    def daemon(self, seconds):
        daemon(seconds)

    def session(self, seconds):
        self.children.append(subprocess.Popen(["sleep", seconds], start_new_session=True))

    def forked(self, seconds):
        "A daemon that goes on in Python, without an exec, under a name of its own."
        pid = os.fork()
        if not pid:
            os.setsid()
            if not os.fork():
                os.execvp("sh", ["sh", "-c", f"sleep {seconds}; true"])
            os._exit(0)
        os.waitpid(pid, 0)

    def tree(self, seconds):
        script = f"setsid sh -c 'setsid sleep {seconds} & setsid sleep {seconds} & wait' & echo"
        subprocess.run(["setsid", "sh", "-c", script], check=True, stdout=subprocess.DEVNULL)

    def leave(self, seconds):
        os._exit(3)

    def own_exit_codes(self, seconds):
        own = [subprocess.Popen(["sh", "-c", f"exit {code}"]) for code in (7, 8)]
        daemon("0.1")
        time.sleep(2)
        codes = [child.wait() for child in own]
        assert codes == [7, 8], codes

app = Parent.bind()
"""


@pytest.fixture
def parent_run(salver_run: Callable[..., SalverRun]) -> Callable[[int], SalverRun]:
    return lambda replicas: salver_run(
        "parent:app", "--port", "0", files={"parent.py": PARENT.replace("REPLICAS", str(replicas))}
    )


def ask(run: SalverRun, what: str, seconds: float = 1000) -> int:
    """Have a replica start something; the replica's pid."""
    answer = get(f"{run.url}?what={what}&s={seconds}")
    assert answer.status == 200, answer
    return int(answer.body)


def sleepers(run: SalverRun, *seconds: int) -> list[int]:
    """The processes of the instance that sleep for so long: the number says which ones are meant."""
    titles = {f"sleep {each}" for each in seconds}
    return [pid for pid in descendants(run.supervisor_pid) if title(pid) in titles]


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_nothing_outlives_its_replica(parent_run: Callable[[int], SalverRun], end: str) -> None:
    run = parent_run(1)
    for what, seconds in (("daemon", 1001), ("session", 1002), ("forked", 1003), ("tree", 1004)):
        pid = ask(run, what, seconds)
    eventually("all of it runs", lambda: len(sleepers(run, 1001, 1002, 1003, 1004)) == 5)
    started = sleepers(run, 1001, 1002, 1003, 1004)
    assert all(os.getsid(each) != os.getsid(pid) for each in started), "each is out of reach of the process group"
    if end == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        assert get(f"{run.url}?what=leave").status == 502
    eventually("the replica ends", lambda: not is_alive(pid))
    eventually("what it started ends", lambda: not living(started), PROMISED_S + SLACK_S)
    eventually("nothing is left of it", lambda: not any(map(psutil.pid_exists, started)), PROMISED_S + SLACK_S)
    eventually("another one serves", lambda: get(f"{run.url}?what=nothing").status == 200)
    assert not any(title(each).startswith(("sh ", "sleep ")) for each in descendants(run.supervisor_pid))


def test_daemons_of_living_replicas_stay(parent_run: Callable[[int], SalverRun]) -> None:
    run = parent_run(2)
    owners: dict[int, list[int]] = {}
    for seconds in range(1000, 1040):
        owners.setdefault(ask(run, "daemon", seconds), []).append(seconds)
        if len(owners) == 2:
            break
    (first, firsts), (second, seconds_of_second) = owners.items()
    dying = [eventually("it runs", lambda n=n: sleepers(run, n))[0] for n in firsts]
    staying = [eventually("it runs", lambda n=n: sleepers(run, n))[0] for n in seconds_of_second]
    os.kill(first, signal.SIGKILL)
    eventually("the daemons of the dead end", lambda: not living(dying), PROMISED_S + SLACK_S)
    eventually("both replicas serve", lambda: len(run.pids()["replica"]) == 2)
    assert living(staying) == staying
    assert is_alive(second)


def test_daemons_that_end_before_their_replica_are_no_zombies(parent_run: Callable[[int], SalverRun]) -> None:
    run = parent_run(1)
    pid = ask(run, "daemon", 1001)
    (daemon,) = eventually("it runs", lambda: sleepers(run, 1001))
    os.kill(daemon, signal.SIGTERM)
    eventually("it is reaped", lambda: not psutil.pid_exists(daemon), PROMISED_S + SLACK_S)
    assert run.pids()["replica"] == [pid]


def test_exit_codes_of_the_user_s_own_processes_are_the_user_s(parent_run: Callable[[int], SalverRun]) -> None:
    run = parent_run(1)
    ask(run, "own_exit_codes")


def test_what_the_user_starts_has_no_limit_that_matters(parent_run: Callable[[int], SalverRun]) -> None:
    run = parent_run(1)
    ask(run, "session", 1001)
    (child,) = eventually("it runs", lambda: sleepers(run, 1001))
    soft, hard = psutil.Process(child).rlimit(psutil.RLIMIT_RTTIME)
    _, inherited = psutil.Process().rlimit(psutil.RLIMIT_RTTIME)
    assert soft / 1e6 > 100_000 * 365 * 24 * 3600
    assert hard == inherited
