"""SIGKILL, to one kind of process after the other, while clients are being served (docs/server-behavior.md)."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.http import get, get_later
from harness.instance import SalverRun
from harness.load import ConstantLoad
from harness.processes import descendants, is_alive, living, role, title
from harness.waiting import eventually
from harness.worker import Held
from salver.controller.client import ControlClient

SLACK_S = 1.0
"""What looking may add to a promised bound, in seconds of a machine that is not crowded."""
REPLACED_WITHIN_S = 1.0 + SLACK_S
CONTROLLER_BACK_WITHIN_S = 2.0 + SLACK_S
PROXY_BACK_WITHIN_S = 1.0 + SLACK_S
GONE_WITHIN_S = 1.0 + SLACK_S
DEATH_SEEN_WITHIN_S = 0.1 * 10
"""After the fact, so by the clock: 0.1 s is the promise."""

WorkerRun = Callable[..., SalverRun]
Hold = Callable[[SalverRun], Held]


def kill(pid: int) -> float:
    """SIGKILL; returns the time."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def running_replicas(run: SalverRun) -> list[int]:
    """Pids of the replicas that the status says are running."""
    (application,) = ControlClient(run.folder / "control.sock").status().applications
    (deployment,) = application.deployments
    return [each.pid for each in deployment.replicas if each.state == "RUNNING" and each.pid is not None]


def wait_replaced(run: SalverRun, dead: int, count: int, within: float) -> None:
    eventually(
        "the replica is replaced",
        lambda: dead not in running_replicas(run) and len(running_replicas(run)) == count,
        within,
    )


# --- a replica --------------------------------------------------------------------------------------------


def test_a_killed_replica_fails_only_what_it_was_running(worker_run: WorkerRun, hold: Hold) -> None:
    run = worker_run(replicas=2)
    before = set(run.pids()["replica"])
    with ConstantLoad(run.url, rate=200) as load:
        held = hold(run)
        load.wait_for(100)
        killed_at = kill(held.pid)
        wait_replaced(run, held.pid, 2, REPLACED_WITHIN_S)
        load.wait_for(200)
        (replacement,) = set(run.pids()["replica"]) - before

    assert held.result().status == 502
    for failure in load.failures():
        assert failure.status == 502, failure
        assert failure.sent <= killed_at + DEATH_SEEN_WITHIN_S, failure
        assert failure.ended >= killed_at - 0.01, failure
    served_by = {int(each.body) for each in load.results if each.sent > killed_at + REPLACED_WITHIN_S}
    assert served_by <= {replacement, *before} - {held.pid}
    assert replacement in {int(each.body) for each in load.results if each.status == 200}
    assert run.status()["applications"]["default"]["deployments"]["Worker"]["replica_states"] == {"RUNNING": 2}


def test_requests_that_wait_for_a_killed_replica_move_to_the_next(salver_run: WorkerRun) -> None:
    """The only replica, with one slot: the request in the slot is lost, the ones in line are not."""
    source = """
import os, time
from pathlib import Path
from salver import serve

@serve.deployment(max_ongoing_requests=1)
class OneAtATime:
    def __call__(self, request):
        if not Path("first").exists():
            Path("first").write_text(str(os.getpid()))
            time.sleep(60)
        return str(os.getpid())

app = OneAtATime.bind()
"""
    run = salver_run("one:app", "--port", "0", files={"one.py": source})
    (dead,) = run.pids()["replica"]
    answers = [get_later(run.url) for _ in range(5)]
    eventually("a request runs", (run.cwd / "first").exists)
    kill(dead)
    results = [answer.result(10) for answer in answers]
    assert sorted(each.status for each in results) == [200, 200, 200, 200, 502]
    assert {each.body for each in results if each.status == 200} == {str(pid) for pid in run.pids()["replica"]}


def test_processes_that_user_code_started_end_with_their_replica(salver_run: WorkerRun) -> None:
    source = """
import subprocess
from salver import serve

@serve.deployment
class Parent:
    def __init__(self):
        self.children = [
            subprocess.Popen(["sleep", "1000"]),
            subprocess.Popen(["sh", "-c", "sleep 1000 & echo; wait"], stdout=subprocess.PIPE),
        ]
        self.children[1].stdout.readline()

    def __call__(self, request):
        return "fine"

app = Parent.bind()
"""
    run = salver_run("parent:app", "--port", "0", files={"parent.py": source})
    (replica,) = run.pids()["replica"]
    sleeping = eventually(
        "the user's processes run",
        lambda: [pid for pid in run.processes() if title(pid) == "sleep 1000"],
    )
    assert len(sleeping) == 2
    kill(replica)
    eventually("the user's processes end", lambda: not living(sleeping), GONE_WITHIN_S)
    wait_replaced(run, replica, 1, REPLACED_WITHIN_S)


@pytest.mark.parametrize("victim", ["cli", "supervisor"])
def test_processes_that_user_code_started_end_with_the_instance(salver_run: WorkerRun, victim: str) -> None:
    source = """
import subprocess
from salver import serve

@serve.deployment
class Parent:
    def __init__(self):
        self.child = subprocess.Popen(["sleep", "1000"])
        self.daemon = subprocess.Popen(["sleep", "2000"], start_new_session=True)

    def __call__(self, request):
        return "fine"

app = Parent.bind()
"""
    run = salver_run("parent:app", "--port", "0", files={"parent.py": source})
    everything = run.processes()
    assert {"sleep 1000", "sleep 2000"} < {title(pid) for pid in everything}
    kill(run.pids()[victim][0])
    run.assert_gone(everything, GONE_WITHIN_S)


def test_a_storm_of_kills_passes(worker_run: WorkerRun) -> None:
    """Every replica that comes up is killed, for three seconds; then all is as before."""
    run = worker_run(replicas=2)
    kills = 0
    with ConstantLoad(run.url, rate=100, connections=4) as load:
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            for pid in run.pids()["replica"]:
                kill(pid)
                kills += 1
            load.wait_for(5)
        eventually("both replicas run again", lambda: len(running_replicas(run)) == 2, 30.0)
        settled_at = time.monotonic()
        load.wait_for(100)

    assert kills >= 4
    assert {each.status for each in load.results} <= {200, 502, 503}
    assert [each for each in load.failures() if each.sent > settled_at + DEATH_SEEN_WITHIN_S] == []
    replicas = run.pids()["replica"]
    assert sorted(replicas) == sorted(running_replicas(run))
    assert len(list((run.folder / "r").iterdir())) == 2, "dead replicas leave no sockets"
    assert len(list(run.folder.glob("stack-*"))) == 2, "nor files"


# --- the controller ---------------------------------------------------------------------------------------


def test_killing_the_controller_again_and_again_fails_nothing(worker_run: WorkerRun, hold: Hold) -> None:
    run = worker_run(replicas=2)
    replicas = sorted(run.pids()["replica"])
    control = ControlClient(run.folder / "control.sock")
    with ConstantLoad(run.url, rate=200) as load:
        held = hold(run)
        for _ in range(3):
            load.wait_for(50)
            (controller,) = run.pids()["controller"]
            kill(controller)
            eventually(
                "another controller answers",
                lambda old=controller: control.status().controller_pid != old,
                CONTROLLER_BACK_WITHIN_S,
            )
            eventually(
                "it has found the replicas",
                lambda: sorted(running_replicas(run)) == replicas,
                CONTROLLER_BACK_WITHIN_S,
            )
            assert sorted(run.pids()["replica"]) == replicas
        load.wait_for(50)
        held.release()

    assert load.failures() == []
    assert held.result().status == 200


def test_a_replica_that_dies_while_the_controller_is_away_is_replaced(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    (controller,) = run.pids()["controller"]
    dead = run.pids()["replica"][0]
    os.kill(controller, signal.SIGSTOP)  # so that it cannot see the death
    kill(dead)
    eventually("the supervisor reaps it", lambda: not os.path.exists(f"/proc/{dead}"))
    kill(controller)
    wait_replaced(run, dead, 2, CONTROLLER_BACK_WITHIN_S + REPLACED_WITHIN_S)
    assert get(run.url).status == 200


def test_a_replica_that_dies_while_the_next_controller_takes_over_is_replaced(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    for _ in range(2):
        (controller,) = run.pids()["controller"]
        dead = run.pids()["replica"][0]
        kill(controller)
        eventually("the next one starts", lambda old=controller: set(run.pids()["controller"]) - {old})
        kill(dead)
        wait_replaced(run, dead, 2, CONTROLLER_BACK_WITHIN_S + REPLACED_WITHIN_S)


def test_after_the_controller_s_death_applications_can_be_deployed_and_deleted(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    before = run.pids()["replica"]
    kill(run.pids()["controller"][0])
    second = worker_run("--instance", run.name, "--name", "second", "--route-prefix", "/second", beside=run)
    assert get(second.url).status == 200
    assert before[0] in run.pids()["replica"]
    second.interrupt()
    assert second.wait(10) == 0
    assert get(second.url).body == str(before[0]), "the prefix belongs to the first application again"
    assert run.pids()["replica"] == before


# --- the proxy --------------------------------------------------------------------------------------------


def test_a_killed_proxy_is_back_and_loses_only_its_connections(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    (proxy,) = run.pids()["proxy"]
    connections = 8
    with ConstantLoad(run.url, rate=200, connections=connections) as load:
        load.wait_for(100)
        killed_at = kill(proxy)
        answer = get_later(run.url)
        eventually("another one answers", answer.done, PROXY_BACK_WITHIN_S)
        assert answer.result().status == 200
        load.wait_for(200)

    failures = load.failures()
    assert len(failures) <= connections, "each connection broke once"
    assert {each.status for each in failures} <= {None}
    assert all(each.sent < killed_at + DEATH_SEEN_WITHIN_S for each in failures)
    assert len(run.pids()["proxy"]) == 1


def test_connections_made_while_there_is_no_proxy_are_answered(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    (proxy,) = run.pids()["proxy"]
    os.kill(run.supervisor_pid, signal.SIGSTOP)  # nobody may start another yet
    try:
        kill(proxy)
        eventually("the proxy is dead", lambda: not is_alive(proxy))
        with ExitStack() as opened:
            clients = [opened.enter_context(socket.create_connection(("127.0.0.1", run.port), 10)) for _ in range(20)]
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            os.kill(run.supervisor_pid, signal.SIGCONT)
            answers = [b"".join(iter(lambda client=client: client.recv(4096), b"")) for client in clients]
    finally:
        os.kill(run.supervisor_pid, signal.SIGCONT)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers), answers


# --- the command and the supervisor -----------------------------------------------------------------------


def test_all_ends_with_the_command(worker_run: WorkerRun, hold: Hold) -> None:
    run = worker_run(replicas=2)
    held = hold(run)
    everything = run.processes()
    run.kill()
    run.assert_gone(everything, GONE_WITHIN_S)
    with pytest.raises(ConnectionError):
        held.result()


def test_all_ends_when_the_terminal_closes(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    everything = run.processes()
    os.kill(run.cli_pid, signal.SIGHUP)
    run.assert_gone(everything, GONE_WITHIN_S)


def test_all_ends_with_the_supervisor_and_the_command_says_so(worker_run: WorkerRun, hold: Hold) -> None:
    run = worker_run(replicas=2)
    held = hold(run)
    everything = run.processes()
    kill(run.supervisor_pid)
    run.assert_gone(everything, GONE_WITHIN_S)
    assert run.wait(5) == 1
    assert "Error: Salver's processes have ended unexpectedly" in run.output()
    assert "Traceback" not in run.output(), run.output()
    with pytest.raises(ConnectionError):
        held.result()


def test_the_supervisor_s_death_ends_a_build_too(salver_run: WorkerRun, tmp_path: Path) -> None:
    source = """
import time
from pathlib import Path
from salver import serve

@serve.deployment
class Slow:
    def __init__(self):
        Path("constructing").touch()
        time.sleep(1000)

app = Slow.bind()
"""
    run = salver_run("slow:app", "--port", "0", files={"slow.py": source}, wait_ready=False)
    eventually("the constructor runs", (tmp_path / "constructing").exists)
    everything = descendants(run.cli_pid)
    kill(next(pid for pid in everything if role(pid) == "supervisor"))
    assert run.wait(GONE_WITHIN_S) == 1
    assert "Error: Salver's processes have ended unexpectedly" in run.output()
    eventually("everything ends", lambda: not living(everything), GONE_WITHIN_S)


def test_a_name_left_by_a_killed_command_can_be_used_again(worker_run: WorkerRun) -> None:
    """Command and supervisor killed together leave a folder; the next instance on that port takes its place."""
    run = worker_run(replicas=1)
    everything = run.processes()
    os.kill(run.cli_pid, signal.SIGSTOP)
    kill(run.supervisor_pid)
    run.kill()
    eventually("everything ends", lambda: not living(everything), GONE_WITHIN_S)
    assert run.folder.exists()
    assert "No instance is running" in run.cli("status").stderr
    assert not run.folder.exists(), "whoever finds it removes it"


# --- user code that goes too far --------------------------------------------------------------------------

VANDAL = """
import os, sys
from salver import serve

@serve.deployment
class Vandal:
    async def __call__(self, request):
        what = request.url.path[1:]
        if what == "sys.exit":
            sys.exit(3)
        if what == "SystemExit":
            raise SystemExit
        if what == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if what == "CancelledError":
            import asyncio
            raise asyncio.CancelledError
        if what == "RecursionError":
            def again():
                return again()
            again()
        if what == "GeneratorExit":
            raise GeneratorExit
        if what == "os._exit":
            os._exit(0)
        if what == "segfault":
            import ctypes
            ctypes.string_at(0)
        return str(os.getpid())

app = Vandal.bind()

@serve.deployment
class ThreadVandal(Vandal.func_or_class):
    def __call__(self, request):
        call = Vandal.func_or_class.__call__(self, request)
        try:
            call.send(None)
        except StopIteration as done:
            return done.value

threaded = ThreadVandal.bind()
"""


@pytest.mark.parametrize("target", ["app", "threaded"])
def test_a_handler_cannot_end_its_replica_by_raising(salver_run: WorkerRun, target: str) -> None:
    run = salver_run(f"vandal:{target}", "--port", "0", files={"vandal.py": VANDAL})
    before = run.pids()["replica"]
    for what in ("sys.exit", "SystemExit", "KeyboardInterrupt", "CancelledError", "RecursionError", "GeneratorExit"):
        assert get(f"{run.url}{what}").status == 500, what
        assert get(run.url).body == str(before[0]), what
    assert run.pids()["replica"] == before


def test_a_crash_in_native_code_says_where_it_was(salver_run: WorkerRun) -> None:
    run = salver_run("vandal:app", "--port", "0", files={"vandal.py": VANDAL})
    (before,) = run.pids()["replica"]
    assert get(f"{run.url}segfault").status == 502
    wait_replaced(run, before, 1, REPLACED_WITHIN_S)
    run.wait_for_output("killed by SIGSEGV")
    run.wait_for_output('vandal.py", line')


def test_a_handler_that_exits_is_a_dead_replica(salver_run: WorkerRun) -> None:
    run = salver_run("vandal:app", "--port", "0", files={"vandal.py": VANDAL})
    (before,) = run.pids()["replica"]
    assert get(f"{run.url}os._exit").status == 502
    wait_replaced(run, before, 1, REPLACED_WITHIN_S)
    assert get(run.url).body == str(run.pids()["replica"][0])
    assert "exited with code 0" in run.output()
