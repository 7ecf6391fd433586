"""Nothing grows in an instance that clients and faults go through; and the check of that, checked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.descriptors import descriptors, wait_for_no_more_than
from harness.http import get
from harness.instance import SalverRun
from harness.leaks import assert_nothing_left, belongings
from harness.load import ConstantLoad
from harness.processes import descendants
from harness.waiting import eventually

WorkerRun = Callable[..., SalverRun]


def below(run: SalverRun) -> list[int]:
    return descendants(run.cli_pid)


def test_clients_that_go_away_leave_nothing(worker_run: WorkerRun, tmp_path: Path) -> None:
    """Before the request, in the middle of it, while it runs; politely and with a reset."""
    run = worker_run(replicas=2)
    get(run.url)
    before = descriptors(run)
    texts = [b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"]
    texts.append(f"GET /hold?marker={tmp_path}/held HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    texts.append(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    for number in range(100):
        client = socket.create_connection(("127.0.0.1", run.port), 10)
        client.sendall(texts[number % len(texts)])
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close with a reset
        client.close()
    wait_for_no_more_than(run, before)
    with ConstantLoad(run.url, rate=200) as load:
        load.wait_for(50)
    assert load.failures() == []


def test_abandoned_requests_give_their_slots_back(worker_run: WorkerRun, tmp_path: Path) -> None:
    """A hundred slots, a hundred requests that never end, a hundred clients that leave: then one more request."""
    run = worker_run(replicas=1)
    with_slots = [socket.create_connection(("127.0.0.1", run.port), 10) for _ in range(100)]
    for number, client in enumerate(with_slots):
        client.sendall(f"GET /hold?marker={tmp_path}/{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    eventually("all of them run", lambda: len(list(tmp_path.glob("*.started"))) == 100)
    for client in with_slots:
        client.close()
    assert get(run.url, timeout=10).status == 200


def test_faults_leave_nothing(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=2)
    get(run.url)
    before = descriptors(run)
    files = {path.name for path in run.folder.iterdir()} | {"ended.jsonl"}  # it remembers who has ended
    for role in ("replica", "proxy", "controller", "replica"):
        _replace(run, role)
        assert get(run.url).status == 200
    wait_for_no_more_than(run, before)
    assert {path.name for path in run.folder.iterdir() if not path.name.startswith("stack-")} <= files
    assert len(list(run.folder.glob("stack-*"))) == 2
    assert len(list((run.folder / "r").iterdir())) == 2


def _replace(run: SalverRun, role: str) -> None:
    before = run.pids()[role]
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> bool:
        now = run.pids()[role]
        return before[0] not in now and len(now) == len(before)

    eventually(f"another {role} runs", replaced, within=20)


def test_deploying_again_and_again_leaves_nothing(worker_run: WorkerRun) -> None:
    run = worker_run(replicas=1)
    get(run.url)
    before = descriptors(run)
    for _ in range(2):
        second = worker_run("--instance", run.name, "--name", "second", "--route-prefix", "/second", beside=run)
        assert get(second.url).status == 200
        second.interrupt()
        assert second.wait(10) == 0
    wait_for_no_more_than(run, before)
    assert len(list((run.folder / "r").iterdir())) == 1


# --- the check itself -------------------------------------------------------------------------------------


def test_the_check_sees_a_socket() -> None:
    before = belongings()
    with socket.socket(), pytest.raises(AssertionError, match=r"descriptor \d+: socket:"):
        assert_nothing_left(before, settle=0.1)


def test_the_check_sees_a_process_that_changed_its_session_and_lost_its_parent() -> None:
    before = belongings()
    started = subprocess.run(
        ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True, check=True
    )
    with pytest.raises(AssertionError, match=r"process \d+: (setsid )?sleep 1000"):
        assert_nothing_left(before, settle=0.1)
    eventually("and ends it", lambda: not psutil.pid_exists(int(started.stdout)) or _is_zombie(int(started.stdout)))


def _is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_check_sees_a_thread_of_ours() -> None:
    before = belongings()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="salver-driver")
    thread.start()
    try:
        with pytest.raises(AssertionError, match="thread salver-driver"):
            assert_nothing_left(before, settle=0.1)
    finally:
        ended.set()
        thread.join()


def test_the_check_sees_an_instance_folder(runtime_folder: Path) -> None:
    before = belongings()
    folder = runtime_folder / "0" / "salver" / "8000"  # not this process's own root, which has to be 0700
    folder.mkdir(parents=True)
    with pytest.raises(AssertionError, match=f"folder {folder}"):
        assert_nothing_left(before, settle=0.1)
    folder.rmdir()
