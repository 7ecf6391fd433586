"""From the first line to the last: how a command starts, shares a machine with others, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.http import get
from harness.instance import READY, SalverRun
from harness.processes import descendants, is_alive, living, title
from harness.waiting import Patience, eventually
from harness.worker import Held

GONE_WITHIN_S = 2.0
"""One second is promised, on a machine that is not crowded; the rest is for looking."""

WorkerRun = Callable[..., SalverRun]
Hold = Callable[[SalverRun], Held]

both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])

SLOW_TO_START = """
import time
from pathlib import Path
from salver import serve

@serve.deployment
class Slow:
    def __init__(self):
        Path("constructing").touch()
        time.sleep(1000)

    def __call__(self, request):
        return "never"

app = Slow.bind()
"""

# --- the end ----------------------------------------------------------------------------------------------


@both_signals
def test_an_idle_application_ends_at_once(worker_run: WorkerRun, number: signal.Signals) -> None:
    run = worker_run(replicas=2)
    assert get(run.url).status == 200
    everything = run.processes()
    within = Patience(GONE_WITHIN_S)
    os.kill(run.cli_pid, number)
    run.assert_gone(everything, within)
    assert run.wait(within) == 0
    assert "Traceback" not in run.output(), run.output()


@both_signals
def test_requests_that_run_are_answered_first(worker_run: WorkerRun, hold: Hold, number: signal.Signals) -> None:
    run = worker_run(replicas=1)
    held = hold(run)
    everything = run.processes()
    os.kill(run.cli_pid, number)
    eventually("new clients are refused", lambda: _is_refused(run.port))
    assert living(everything) == everything
    held.release()
    assert held.result().status == 200
    assert held.result().body == str(held.pid)
    run.assert_gone(everything, GONE_WITHIN_S)
    assert run.wait(GONE_WITHIN_S) == 0


@both_signals
def test_the_second_signal_ends_it_at_once(worker_run: WorkerRun, hold: Hold, number: signal.Signals) -> None:
    run = worker_run(replicas=1)
    held = hold(run)
    everything = run.processes()
    os.kill(run.cli_pid, number)
    run.wait_for_output("Ctrl-C again to stop at once")
    os.kill(run.cli_pid, number)
    run.assert_gone(everything, GONE_WITHIN_S)
    assert run.wait(GONE_WITHIN_S) == 130
    with pytest.raises(ConnectionError):
        held.result()


def test_an_application_that_is_starting_can_be_stopped(salver_run: WorkerRun, tmp_path: Path) -> None:
    run = salver_run("slow:app", "--port", "0", files={"slow.py": SLOW_TO_START}, wait_ready=False)
    eventually("the constructor runs", (tmp_path / "constructing").exists)
    everything = descendants_and_self(run)
    within = Patience(GONE_WITHIN_S)
    run.interrupt()
    assert run.wait(within) in {0, 130}
    eventually("all of it ends", lambda: not living(everything), within)
    assert not READY.search(run.output())
    assert "Traceback" not in run.output(), run.output()


def descendants_and_self(run: SalverRun) -> list[int]:
    return [run.cli_pid, *descendants(run.cli_pid)]


def test_a_hook_that_never_returns_is_not_waited_for_forever(salver_run: WorkerRun) -> None:
    """The second Ctrl-C is for this."""
    source = """
import time
from salver import serve

@serve.deployment
class Stubborn:
    def __call__(self, request):
        return "fine"

    def __del__(self):
        print("deleting", flush=True)
        time.sleep(1000)

app = Stubborn.bind()
"""
    run = salver_run("stubborn:app", "--port", "0", files={"stubborn.py": source})
    everything = run.processes()
    run.interrupt()
    run.wait_for_output("deleting")
    run.interrupt()
    run.assert_gone(everything, GONE_WITHIN_S)
    assert run.wait(GONE_WITHIN_S) == 130


def _is_refused(port: int) -> bool:
    try:
        get(f"http://127.0.0.1:{port}/-/healthz", timeout=1)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


# --- several ----------------------------------------------------------------------------------------------


def test_two_instances_live_side_by_side(worker_run: WorkerRun) -> None:
    first = worker_run(replicas=1)
    second = worker_run(replicas=1, beside=first)
    assert first.port != second.port
    assert get(first.url).body == str(first.pids()["replica"][0])
    assert get(second.url).body == str(second.pids()["replica"][0])

    undecided = first.cli("status")
    assert undecided.returncode == 1
    assert undecided.stdout == ""
    assert "Several instances are running: choose one with --instance NAME." in undecided.stderr
    for run in (first, second):
        assert f"{run.name:<12} http://127.0.0.1:{run.port}/" in undecided.stderr
        chosen = first.cli("status", "--instance", run.name)
        assert chosen.returncode == 0
        assert f"http://127.0.0.1:{run.port}/" in chosen.stdout

    first.interrupt()
    assert first.wait(GONE_WITHIN_S) == 0
    assert get(second.url).status == 200
    only = second.cli("status")
    assert (only.returncode, only.stderr) == (0, "")
    assert f"Instance {second.name} " in only.stdout


def test_a_second_command_joins_an_instance_and_leaves_it(worker_run: WorkerRun) -> None:
    first = worker_run(replicas=1)
    second = worker_run("--instance", first.name, "--name", "second", "--route-prefix", "/second", beside=first)
    assert second.url == f"{first.url}second"
    assert second.supervisor_pid == first.supervisor_pid
    assert set(first.status()["applications"]) == {"default", "second"}
    own = set(first.pids()["replica"]) - {int(get(first.url).body)}
    assert int(get(second.url).body) in own

    second.interrupt()
    assert second.wait(GONE_WITHIN_S) == 0
    assert set(first.status()["applications"]) == {"default"}
    assert not living(own)
    assert get(first.url).status == 200
    assert first.is_alive()


def test_commands_in_an_instance_see_it_end(worker_run: WorkerRun) -> None:
    first = worker_run(replicas=1)
    second = worker_run("--instance", first.name, "--name", "second", "--route-prefix", "/second", beside=first)
    first.interrupt()
    assert first.wait(GONE_WITHIN_S) == 0
    assert second.wait(GONE_WITHIN_S) == 0
    assert "The instance has ended." in second.output()


def test_shutdown_ends_an_instance_from_elsewhere(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    everything = run.processes()
    answer = run.cli("shutdown")
    assert (answer.returncode, answer.stderr) == (0, f"Instance {run.name} has ended.\n")
    run.assert_gone(everything, GONE_WITHIN_S)
    assert run.wait(GONE_WITHIN_S) == 0, "somebody asked for it: no failure"
    assert "unexpectedly" not in run.output()

    again = run.cli("shutdown")
    assert again.returncode == 1
    assert "No instance is running. Start one with `salver run module:app`." in again.stderr


def test_a_non_blocking_run_stays_until_shutdown(worker_run: WorkerRun) -> None:
    run = worker_run("--non-blocking", replicas=1)
    assert run.wait(10) == 0
    everything = [pid for pid in run.processes() if pid != run.cli_pid]
    assert get(run.url).status == 200
    assert run.status()["applications"]["default"]["status"] == "RUNNING"
    assert is_alive(run.supervisor_pid)
    assert run.cli("shutdown").returncode == 0
    run.assert_gone(everything, GONE_WITHIN_S)


def test_the_port_s_holder_is_named(worker_run: WorkerRun, tmp_path: Path) -> None:
    run = worker_run(replicas=1)
    answer = run.cli("run", "worker:app", "--port", str(run.port), timeout=60)
    assert answer.returncode == 3
    assert f"port {run.port} on 127.0.0.1 is in use" in answer.stderr
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert get(run.url).status == 200


# --- processes of the build -------------------------------------------------------------------------------


def test_what_a_module_starts_when_imported_ends_with_the_build(salver_run: WorkerRun) -> None:
    source = """
import subprocess
from salver import serve

helper = subprocess.Popen(["sleep", "3000"])

@serve.deployment
def hello(request):
    return "hi"

app = hello.bind()
"""
    run = salver_run("app:app", "--port", "0", files={"app.py": source})
    # The function came by reference: its replica has imported the module, too.
    eventually("only the replica's helper runs", lambda: helpers_of(run.cli_pid) == helpers_of(run.supervisor_pid))
    everything = run.processes()
    run.interrupt()
    run.assert_gone(everything, GONE_WITHIN_S)


def helpers_of(pid: int) -> list[int]:
    return [each for each in descendants(pid) if title(each) == "sleep 3000"]


def test_a_script_s_instance_ends_with_the_script(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    source = """
import os, signal, urllib.request
from salver import serve

@serve.deployment
def hello(request):
    return "hi"

serve.start(http_options={"port": 0})
serve.run(hello.bind())
url = serve.status().instance.url
print(urllib.request.urlopen(url).read().decode(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(source)
    assert (done.stdout, done.returncode) == ("hi\n", -signal.SIGKILL)
