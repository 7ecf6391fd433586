"""``salver start`` and ``run`` under a service manager: its news, its sockets, its signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from harness.http import get, get_later
from harness.instance import SalverRun, command_line
from harness.processes import living
from harness.waiting import eventually, let_pass
from harness.worker import WORKER, Held

WITHIN_S = 20.0
Start = Callable[..., SalverRun]

SLEEPER = """
import asyncio
from salver import serve

@serve.deployment(num_replicas=2, max_ongoing_requests=100)
class Sleeper:
    async def __call__(self, request):
        await asyncio.sleep(0.05)
        return "done"

app = Sleeper.bind()
"""


SLOW_START = """
import time
from salver import serve

@serve.deployment
class Slow:
    def __init__(self):
        time.sleep(1)

    def __call__(self, request):
        return "slow, but there"

app = Slow.bind()
"""
CONFIG = """
applications:
- import_path: slow:app
- name: shop
  route_prefix: /shop
  import_path: slow:app
"""


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(WITHIN_S)
        self.news: list[str] = []

    def wait_for(self, line: str) -> None:
        while line not in self.news:
            self.news += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def notify_address(request: pytest.FixtureRequest, runtime_folder: Path) -> str:
    return str(runtime_folder / "n") if request.param == "path" else f"@salver-test-{os.getpid()}"


@pytest.fixture
def manager(notify_address: str) -> Generator[Manager]:
    made = Manager("\0" + notify_address[1:] if notify_address[0] == "@" else notify_address)
    yield made
    made.close()
    Path(notify_address).unlink(missing_ok=True)


# --- news -------------------------------------------------------------------------------------------------


def test_the_manager_hears_when_it_serves_and_when_it_stops(
    salver_start: Start, manager: Manager, notify_address: str
) -> None:
    run = salver_start("--foreground", env={"NOTIFY_SOCKET": notify_address})
    manager.wait_for("READY=1")
    assert any(line.startswith("STATUS=Serving http://127.0.0.1:") for line in manager.news)
    assert "STOPPING=1" not in manager.news
    everything = run.processes()
    run.terminate()
    manager.wait_for("STOPPING=1")
    assert run.wait(WITHIN_S) == 0
    run.assert_gone(everything, WITHIN_S)


def test_a_run_is_ready_when_its_application_is(
    salver_run: Start, manager: Manager, notify_address: str, tmp_path: Path
) -> None:
    source = WORKER.replace("REPLICAS", "1") + (
        "\nclass Late(Worker.func_or_class):\n"
        "    def __init__(self):\n"
        "        import pathlib, subprocess, time\n"
        "        pathlib.Path('variables').write_bytes(subprocess.check_output(['env']))\n"
        "        while not pathlib.Path('open').exists():\n"
        "            time.sleep(0.01)\n"
        "\napp = serve.deployment(Late).bind()\n"
    )
    environment = {"NOTIFY_SOCKET": notify_address}
    run = salver_run("late:app", "--port", "0", files={"late.py": source}, env=environment, wait_ready=False)
    eventually("it constructs", lambda: list(run.runtime.glob("salver/*/r/*")))
    assert manager.news == []
    variables = eventually("its variables are known", lambda: read_if_there(tmp_path / "variables"))
    assert b"XDG_RUNTIME_DIR=" in variables
    assert b"NOTIFY_SOCKET" not in variables, "it is between the manager and the command"
    (tmp_path / "open").touch()
    manager.wait_for("READY=1")
    run.wait_ready()
    run.terminate()
    assert run.wait(WITHIN_S) == 0


def read_if_there(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_manager_that_is_gone_is_no_trouble(salver_start: Start) -> None:
    run = salver_start("--foreground", env={"NOTIFY_SOCKET": "/nowhere/at/all"})
    run.terminate()
    assert run.wait(WITHIN_S) == 0


# --- sockets ----------------------------------------------------------------------------------------------

ACTIVATE = """
import fcntl, os, sys
numbers, names = sys.argv[1].split(","), sys.argv[2]
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 50) for number in numbers]  # out of the way of 3 and those after it
for place, copy in enumerate(copies, start=3):
    os.dup2(copy, place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.execv(sys.argv[3], sys.argv[3:])
"""


class Activated(NamedTuple):
    """A command that was started with a socket as descriptor 3."""

    process: subprocess.Popen[bytes]
    listening: socket.socket
    said: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}/"


@pytest.fixture
def activate(tmp_path: Path, runtime_folder: Path) -> Generator[Callable[..., Activated]]:
    """``activate(listening, "run", ...)``: the command as a service manager starts it, with that socket.

    ``admin``: another one, for the control API.
    """
    started: list[Activated] = []

    def start(listening: socket.socket, *argv: str, admin: socket.socket | None = None) -> Activated:
        folder = runtime_folder / "a"
        folder.mkdir(mode=0o700, exist_ok=True)
        said = tmp_path / "said"
        passed = {"salver.socket": listening.fileno()} | ({"admin": admin.fileno()} if admin else {})
        numbers, names = ",".join(map(str, passed.values())), ":".join(passed)
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", ACTIVATE, numbers, names, *command_line(("salver", *argv))],
                cwd=tmp_path,
                env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
                pass_fds=passed.values(),
                stdin=subprocess.DEVNULL,
                stderr=output,
            )
        started.append(Activated(process, listening, said))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.listening.close()


def test_it_serves_on_the_socket_that_it_was_passed(activate: Callable[..., Activated], tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER.replace("REPLICAS", "1"))
    listening = socket.create_server(("127.0.0.1", 0))
    early = get_later(f"http://127.0.0.1:{listening.getsockname()[1]}/-/routes")
    activated = activate(listening, "run", "worker:app", "--port", "1")
    assert early.result(60).body, "who came before it served has waited"
    eventually("the application runs", lambda: f"· {activated.url}" in activated.said.read_text(), 60)
    assert get(activated.url).status == 200
    activated.process.terminate()
    assert activated.process.wait(WITHIN_S) == 0
    assert "--host and --port have no effect" in activated.said.read_text()
    with socket.create_connection(listening.getsockname()):
        pass  # the manager's own socket still listens: clients wait for the next start


@pytest.mark.parametrize("what", ["slow.yaml", "slow:app"])
def test_clients_that_came_before_it_started_wait_for_the_application(
    activate: Callable[..., Activated], tmp_path: Path, what: str
) -> None:
    (tmp_path / "slow.py").write_text(SLOW_START)
    (tmp_path / "slow.yaml").write_text(CONFIG)
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    early = [get_later(f"{url}/{'shop/x' if number % 2 else ''}", timeout=90) for number in range(20)]
    activated = activate(listening, "run", what)
    answers = {(each.result(90).status, each.result().body) for each in early}
    assert answers == {(200, "slow, but there")}
    eventually("it says so", lambda: "Ready in" in activated.said.read_text(), 60)
    assert get(f"{url}/-/routes").status == 200
    activated.process.terminate()
    assert activated.process.wait(WITHIN_S) == 0


def test_where_nothing_is_to_run_nobody_waits(activate: Callable[..., Activated]) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    early = get_later(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=90)
    activated = activate(listening, "start", "--foreground")
    assert early.result(90).status == 404
    activated.process.terminate()
    assert activated.process.wait(WITHIN_S) == 0


def test_the_control_api_has_a_socket_of_its_own(activate: Callable[..., Activated]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as admin:
        port = admin.getsockname()[1]
        activated = activate(socket.create_server(("127.0.0.1", 0)), "start", "--foreground", admin=admin)
        eventually("it serves", lambda: f"· {activated.url}" in activated.said.read_text(), 60)
        assert f"Control API at http://127.0.0.1:{port}/, with the token in" in activated.said.read_text()
        assert get(f"http://127.0.0.1:{port}/api/v1/status").status == 401
        assert get(f"{activated.url}api/v1/status").status == 404
        activated.process.terminate()
        assert activated.process.wait(WITHIN_S) == 0


def test_a_socket_that_does_not_listen_is_refused(activate: Callable[..., Activated]) -> None:
    activated = activate(socket.socket(), "start", "--foreground")
    assert activated.process.wait(WITHIN_S) == 3
    assert "descriptor 3 of the service manager is no listening TCP socket" in activated.said.read_text()


def test_sockets_for_another_process_are_left_alone(salver_start: Start) -> None:
    run = salver_start("--foreground", env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert get(f"{run.url}-/routes").status == 200
    run.terminate()
    assert run.wait(WITHIN_S) == 0


# --- signals ----------------------------------------------------------------------------------------------


def test_sigterm_loses_no_request_under_load(salver_run: Start) -> None:
    """Every client connects anew for each request: it is either refused or answered."""
    run = salver_run("app:app", "--port", "0", "--proxies", "2", files={"app.py": SLEEPER})
    outcomes: list[int | None] = []
    errors: list[BaseException] = []

    def ask() -> None:
        while True:
            try:
                outcomes.append(get(run.url).status)
            except ConnectionRefusedError:
                return
            except Exception as error:
                errors.append(error)
                return

    clients = [threading.Thread(target=ask) for _ in range(20)]
    for client in clients:
        client.start()
    eventually("load is there", lambda: len(outcomes) > 200, within=60)
    everything = run.processes()
    run.terminate()
    for client in clients:
        client.join(60)
    assert errors == []
    assert set(outcomes) == {200}
    assert run.wait(WITHIN_S) == 0
    run.assert_gone(everything, WITHIN_S)


def test_who_has_just_connected_when_it_ends_is_answered(salver_run: Start) -> None:
    """Older connections that say nothing are closed at once."""
    run = salver_run("app:app", "--port", "0", files={"app.py": SLEEPER})
    port = urlsplit(run.url).port
    with socket.create_connection(("127.0.0.1", port)) as old:
        let_pass(1.0)
        with socket.create_connection(("127.0.0.1", port)) as new:
            run.terminate()
            old.settimeout(WITHIN_S)
            assert old.recv(1) == b""
            new.settimeout(WITHIN_S)
            new.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = new.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
    assert run.wait(WITHIN_S) == 0


def test_who_waits_to_be_accepted_when_it_ends_is_answered(salver_run: Start) -> None:
    """Connected as far as they know: the proxy has not come to it yet."""
    run = salver_run("app:app", "--port", "0", files={"app.py": SLEEPER})
    (proxy,) = run.pids()["proxy"]
    port = urlsplit(run.url).port
    os.kill(proxy, signal.SIGSTOP)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        run.terminate()
        os.kill(proxy, signal.SIGCONT)
        for client in clients:
            client.settimeout(WITHIN_S)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in clients:
            client.close()
    assert run.wait(WITHIN_S) == 0


def test_a_hangup_ends_it_like_sigterm_and_once_only(worker_run: Start, hold: Callable[[SalverRun], Held]) -> None:
    run = worker_run(replicas=1)
    held = hold(run)
    for _ in range(2):
        os.kill(run.cli_pid, signal.SIGHUP)
    run.wait_for_output("Stopping")
    time.sleep(0.2)  # not for something to happen: for nothing to
    held.release()
    assert held.result().status == 200
    assert run.wait(WITHIN_S) == 0


def test_nohup_keeps_it_running(tmp_path: Path, salver_start: Start) -> None:
    script = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    argv = command_line(("salver", "start", "--port", "0", "--foreground"))
    run = SalverRun.start("python", "-c", script, *argv, cwd=tmp_path)
    try:
        os.kill(run.cli_pid, signal.SIGHUP)
        assert get(f"{run.url}-/routes").status == 200
        assert run.is_alive()
        run.terminate()
        assert run.wait(WITHIN_S) == 0
    finally:
        run.stop()


def test_without_foreground_it_outlives_its_command(salver_start: Start) -> None:
    run = salver_start("--name", "staging")
    assert run.wait(WITHIN_S) == 0
    assert run.name == "staging"
    assert "salver deploy serve.yaml --instance staging" in run.output()
    everything = run.processes()[1:]
    assert living(everything) == everything
    assert get(f"{run.url}-/routes").status == 200
    taken = run.cli("start", "--port", "0", "--name", "staging")
    assert taken.returncode == 3
    assert "an instance named 'staging' is running already" in taken.stderr
    assert run.cli("shutdown", "--instance", "staging").returncode == 0
    run.assert_gone(everything, WITHIN_S)
