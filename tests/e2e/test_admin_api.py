"""The control API of a real instance: on TCP when asked, with a token that nobody else sees."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.instance import SalverRun, command_line
from harness.listeners import internet_listeners, unix_listeners
from harness.processes import is_alive
from harness.waiting import eventually
from harness.worker import WORKER
from salver.controller.client import ControlClient

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def admin_of(run: SalverRun) -> tuple[int, str]:
    """Port and token."""
    info = json.loads((run.folder / "instance.json").read_bytes())
    return info["admin"]["port"], (run.folder / "admin.token").read_text().strip()


def ask(
    run: SalverRun, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and document, over TCP; with the token unless ``headers`` say otherwise."""
    port, token = admin_of(run)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"authorization": f"Bearer {token}"} if headers is None else headers)
        response = connection.getresponse()
        received = response.read()
        return response.status, json.loads(received) if received else None
    finally:
        connection.close()


ADMIN = ("--admin-port", "0", "--admin-allowed-host", "salver.example")


@pytest.fixture(scope="module")
def admin_run(module_run: Callable[..., SalverRun]) -> SalverRun:
    """For the tests that leave it as it was."""
    return module_run("worker:app", *ADMIN, files={"worker.py": WORKER.replace("REPLICAS", "1")})


@pytest.fixture
def own_admin_run(worker_run: Callable[..., SalverRun]) -> SalverRun:
    return worker_run(*ADMIN, replicas=1)


def test_every_route_of_a_real_instance_needs_the_token(admin_run: SalverRun) -> None:
    status, document = ask(admin_run, "GET", "/openapi.json")
    assert status == 200
    paths = [re.sub(r"{\w+}", "default", path) for path in document["paths"]]
    assert len(paths) >= 10
    for path in [*paths, "/", "/unknown", "/openapi.json?x"]:
        for method in METHODS:
            expected = 200 if path in {"/livez", "/readyz"} and method in {"GET", "HEAD"} else 401
            assert ask(admin_run, method, path, headers={})[0] == expected, (method, path)
            if expected == 401:
                wrong = {"authorization": "Bearer " + "x" * 43}
                assert ask(admin_run, method, path, headers=wrong)[0] == 401, (method, path)
    assert ask(admin_run, "GET", "/api/v1/status")[1]["applications"][0]["status"] == "RUNNING"


def test_web_pages_get_nothing(admin_run: SalverRun) -> None:
    _, token = admin_of(admin_run)
    authorized = {"authorization": f"Bearer {token}"}
    assert ask(admin_run, "GET", "/api/v1/status", headers={**authorized, "host": "evil.example"})[0] == 421
    assert ask(admin_run, "GET", "/api/v1/status", headers={**authorized, "host": "salver.example"})[0] == 200
    foreign = {**authorized, "origin": "http://evil.example"}
    assert ask(admin_run, "DELETE", "/api/serve/applications/", headers=foreign)[0] == 403
    assert admin_run.is_alive()


def test_strangers_write_nothing_into_the_log(admin_run: SalverRun) -> None:
    port, _ = admin_of(admin_run)
    admin_run.wait_for_output("Worker +HEALTHY")  # the last that it says by itself
    before = admin_run.output()
    for nonsense in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(nonsense)
            assert connection.recv(20).startswith(b"HTTP/1.1 4")
    assert ask(admin_run, "GET", "/unknown%1b[31m", headers={})[0] == 401
    assert admin_run.output() == before


def test_what_listens_is_one_port_more(admin_run: SalverRun) -> None:
    port, _ = admin_of(admin_run)
    everything = admin_run.processes()
    expected = {f"tcp 127.0.0.1:{each}" for each in (admin_run.port, port)}
    assert internet_listeners(everything) == expected
    replica = admin_run.pids()["replica"]
    assert internet_listeners(replica) == set(), "user code cannot answer in the name of the control API"
    assert internet_listeners(admin_run.pids()["proxy"]) == {f"tcp 127.0.0.1:{admin_run.port}"}
    assert len(unix_listeners(everything)) == 3
    assert f"http://127.0.0.1:{port}/" in admin_run.output()


def test_the_token_is_in_no_argument_variable_or_log(admin_run: SalverRun) -> None:
    _, token = admin_of(admin_run)
    assert len(token) == 43
    for pid in admin_run.processes():
        for name in ("cmdline", "environ"):
            assert token.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), (pid, name)
    assert token not in admin_run.output()
    for path in admin_run.folder.rglob("*"):
        if path.is_file() and path.name != "admin.token":
            assert token.encode() not in path.read_bytes(), path


def test_files_are_for_this_user_only_under_any_umask(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(WORKER.replace("REPLICAS", "1"))
    salver = command_line(("salver",))[0]
    run = SalverRun.start("sh", "-c", f"umask 000; exec {salver} run app:app --port 0 --admin-port 0", cwd=tmp_path)
    try:
        token = (run.folder / "admin.token").lstat()
        assert token.st_mode & 0o7777 == 0o600
        assert token.st_uid == os.getuid()
        assert (run.folder / "events.jsonl").lstat().st_mode & 0o7777 == 0o600
        assert ask(run, "GET", "/api/v1/status")[0] == 200
        (run.folder / "admin.token").chmod(0o644)
        assert ask(run, "GET", "/api/v1/status")[0] == 401
        run.wait_for_output("the control API takes no token on TCP")
    finally:
        run.stop()


CONNECT_TO_ALL = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in sys.argv[1:]:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(30)
    try:
        peer.connect(path)
        peer.sendall(b"GET /api/v1/status HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n")
        print("answer" if peer.recv(100) else "closed")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("open_to_all", ["nothing", "folders", "folders and sockets"])
def test_another_user_gets_no_answer_on_any_socket(admin_run: SalverRun, open_to_all: str) -> None:
    """Folders, the sockets' own modes and the peer's user id: each is enough by itself."""
    sockets = unix_listeners(admin_run.processes())
    assert len(sockets) == 3
    session = Path(os.environ["XDG_RUNTIME_DIR"])
    folders = [session, admin_run.runtime, admin_run.folder.parent, admin_run.folder, admin_run.folder / "r"]
    if open_to_all != "nothing":
        for folder in folders:
            folder.chmod(0o755)
    if "sockets" in open_to_all:
        for path in sockets:
            Path(path).chmod(0o666)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT_TO_ALL, *sockets], capture_output=True, text=True, timeout=60, check=True
        )
    finally:
        for folder in folders:
            folder.chmod(0o700)
    if "sockets" in open_to_all:
        assert set(done.stdout.split()) <= {"closed", "ConnectionResetError", "BrokenPipeError"}
    else:
        assert done.stdout.split() == ["PermissionError"] * 3


def test_a_taken_port_is_an_error_at_once(tmp_path: Path, salver_run: Callable[..., SalverRun]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = salver_run(
            "worker:app",
            "--port",
            "0",
            "--admin-port",
            str(port),
            files={"worker.py": WORKER.replace("REPLICAS", "1")},
            wait_ready=False,
        )
        assert run.wait(60) == 3
        assert f"port {port} on 127.0.0.1 is in use" in run.output()
        assert "--admin-port" in run.output()


def test_flags_that_need_each_other(tmp_path: Path) -> None:
    done = subprocess.run(
        command_line(("salver", "run", "app:app", "--admin-host", "0.0.0.0")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "need --admin-port" in done.stderr


def test_a_controller_that_is_started_again_listens_and_remembers(own_admin_run: SalverRun) -> None:
    before = ask(own_admin_run, "GET", "/api/v1/events")[1]
    assert [each["kind"] for each in before["events"]][:1] == ["deploy"]
    [controller] = own_admin_run.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    after = ask(own_admin_run, "GET", "/api/v1/events")[1]
    assert after["events"][: len(before["events"])] == before["events"]
    numbers = [each["number"] for each in after["events"]]
    assert numbers == sorted(set(numbers))
    assert ask(own_admin_run, "GET", "/readyz", headers={}) == (200, {"status": "ok"})
    eventually("one controller runs", lambda: len(own_admin_run.pids()["controller"]) == 1, 30)
    assert own_admin_run.pids()["controller"] != [controller]


def config(**more: Any) -> dict[str, Any]:
    return {
        "applications": [
            {
                "name": "declared",
                "route_prefix": "/declared",
                "import_path": "worker:app",
                "runtime_env": {"env_vars": {"API_KEY": "hunter2"}},
            }
        ],
        **more,
    }


def test_a_config_over_the_network(admin_run: SalverRun) -> None:
    status, accepted = ask(admin_run, "PUT", "/api/serve/applications/", config())
    assert (status, accepted["warnings"]) == (200, [])
    status, state = ask(admin_run, "GET", "/api/v1/status?settled=declared&wait_s=60")
    assert status == 200
    assert state["declaration"]["accepted_at_s"] == accepted["accepted_at_s"]
    assert {each["name"]: each["status"] for each in state["applications"]} == {
        "default": "RUNNING",
        "declared": "RUNNING",
    }, state
    shown = ask(admin_run, "GET", "/api/serve/applications/?api_type=declarative")[1]["applications"]
    assert set(shown) == {"declared"}
    assert shown["declared"]["source"] == "declarative"
    assert shown["declared"]["deployed_app_config"]["runtime_env"]["env_vars"] == {"API_KEY": "<redacted>"}
    for path in ("/api/v1/status", "/api/serve/applications/", "/api/v1/events", "/api/serve/metrics"):
        assert "hunter2" not in json.dumps(ask(admin_run, "GET", path)[1]), path
    status, problem = ask(admin_run, "PUT", "/api/serve/applications/", config(applicatoins=[], http_optoins={}))
    assert status == 400
    assert len(problem["problems"]) >= 2, problem
    assert ask(admin_run, "PUT", "/api/serve/applications/", {"applications": []})[0] == 200
    eventually(
        "what the config no longer names is gone",
        lambda: [each["name"] for each in ask(admin_run, "GET", "/api/v1/status")[1]["applications"]] == ["default"],
        60,
    )


def test_delete_ends_the_instance(own_admin_run: SalverRun) -> None:
    processes = own_admin_run.processes()
    assert ask(own_admin_run, "DELETE", "/api/serve/applications/") == (200, {})
    assert own_admin_run.wait(60) == 0
    eventually("every process has ended", lambda: not any(map(is_alive, processes)), 30)
    assert not own_admin_run.folder.exists()


def test_a_long_poll_does_not_hold_up_the_end(own_admin_run: SalverRun) -> None:
    client = ControlClient(own_admin_run.folder / "control.sock")
    last = max(each.number for each in client.events())
    port, token = admin_of(own_admin_run)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as waiting:
        request = f"GET /api/v1/events?after={last}&wait_s=60 HTTP/1.1\r\nHost: localhost\r\n"
        waiting.sendall(f"{request}Authorization: Bearer {token}\r\n\r\n".encode())
        client.status()
        began = time.monotonic()
        own_admin_run.interrupt()
        assert own_admin_run.wait(60) == 0
        assert time.monotonic() - began < 30
