"""The control API over its real socket: a server, a controller on the memory engine, and the blocking client."""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.controller.api import ControlServer
from salver.controller.checkpoint import MemoryCheckpoint
from salver.controller.client import ControlClient, ControlRefused, ControlUnreachable
from salver.controller.controller import Controller
from salver.data.load_board import LoadBoard
from salver.engine.local.instance import InstanceInfo
from salver.engine.memory import MemoryEngine, MemoryNetwork
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec
from salver.wire.payload import dump_definition

INFO = InstanceInfo("test", 1, "127.0.0.1", 8000, 1, 0.0, "0")

constructing = threading.Event()


class Model:
    def __call__(self) -> str:
        return "answer"


class Broken:
    def __init__(self) -> None:
        raise ValueError("no model here")


class Waits:
    async def __init__(self) -> None:  # type: ignore[misc]
        constructing.set()
        await asyncio.Event().wait()


def application(
    name: str = "app", route_prefix: str | None = "/", target: type = Model, replicas: int = 1
) -> ApplicationSpec:
    deployment = DeploymentSpec(
        DeploymentId(name, "d"),
        version="v1",
        definition=dump_definition((target, (), {})),
        num_replicas=replicas,
        max_constructor_failures=1,
    )
    return ApplicationSpec(name, route_prefix, "d", (deployment,))


class Server:
    """The control server's thread and loop; ``call`` runs something there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.controller: Controller
        self._loop: asyncio.AbstractEventLoop
        self._running = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        network, board, key = MemoryNetwork(), LoadBoard(), secrets.token_bytes(32)
        engine = MemoryEngine(network, board, key, os.getpid())
        self.controller = Controller(
            engine=engine, checkpoint=MemoryCheckpoint(), connect=network.connect, key=key, epoch=1
        )
        await self.controller.start()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        listening.listen()
        api = ControlServer(self.controller, lambda: INFO, pid=7)
        serving = asyncio.create_task(api.serve(listening))
        self._running.set()
        await self._stop.wait()
        self.controller.end_waits()
        await api.stop()
        await serving
        listening.close()
        await self.controller.stop()
        board.close()

    def start(self) -> None:
        self._thread.start()
        assert self._running.wait(30)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            assert not self._thread.is_alive()


@pytest.fixture
def server() -> Generator[Server]:
    constructing.clear()
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.stop()


@pytest.fixture
def client(server: Server) -> ControlClient:
    return ControlClient(server.path)


@contextmanager
def connection(server: Server) -> Generator[http.client.HTTPConnection]:
    raw = http.client.HTTPConnection("localhost")
    raw.sock = socket.socket(socket.AF_UNIX)
    raw.sock.settimeout(30)
    raw.sock.connect(str(server.path))
    try:
        yield raw
    finally:
        raw.close()


def ask(server: Server, method: str, path: str, body: bytes | None = None) -> tuple[int, str | None, Any]:
    """Status, content type and decoded body, without the client's own opinions."""
    with connection(server) as raw:
        raw.request(method, path, body)
        response = raw.getresponse()
        data = response.read()
        kind = response.headers["content-type"]
        return response.status, kind, msgspec.json.decode(data) if kind and "json" in kind else data


def test_deploy_status_delete(client: ControlClient) -> None:
    assert client.status().applications == ()
    client.deploy(application(replicas=2))
    view = client.wait_settled("app", 30)
    assert view is not None
    assert (view.name, view.status, view.route_prefix, view.ingress) == ("app", "RUNNING", "/", "d")
    [deployment] = view.deployments
    assert (deployment.status, deployment.replica_states) == ("HEALTHY", {"RUNNING": 2})
    assert {replica.pid for replica in deployment.replicas} == {os.getpid()}
    status = client.status()
    assert (status.instance, status.controller_pid, status.proxy_pids) == (INFO, 7, ())
    assert [each.name for each in status.applications] == ["app"]
    assert client.delete("app", 30)
    assert client.status().applications == ()
    assert client.delete("app", 0), "deleting what is not there is fine"


def test_deploying_the_same_again_changes_nothing(client: ControlClient) -> None:
    client.deploy(application())
    before = client.wait_settled("app", 30)
    client.deploy(application())
    after = client.wait_settled("app", 30)
    assert before is not None
    assert after is not None
    assert [r.replica_id for d in before.deployments for r in d.replicas] == [
        r.replica_id for d in after.deployments for r in d.replicas
    ]


def test_a_constructor_that_raises_is_in_the_status(client: ControlClient) -> None:
    client.deploy(application(target=Broken))
    view = client.wait_settled("app", 30)
    assert view is not None
    assert view.status == "DEPLOY_FAILED"
    assert 'raise ValueError("no model here")' in view.message
    assert client.delete("app", 30)


def test_names_with_special_characters_reach_their_application(client: ControlClient) -> None:
    name = "name with % and ? and ü"
    client.deploy(application(name))
    view = client.wait_settled(name, 30)
    assert view is not None
    assert view.status == "RUNNING"
    assert client.delete(name, 30)


def test_two_applications_cannot_have_the_same_prefix(server: Server, client: ControlClient) -> None:
    client.deploy(application("first", "/same"))
    with pytest.raises(ControlRefused, match='Prefix /same is being used by application "first"'):
        client.deploy(application("second", "/same"))
    status, kind, problem = ask(
        server, "PUT", "/api/v1/applications/second", msgspec.msgpack.encode(application("second", "/same"))
    )
    assert (status, kind) == (409, "application/problem+json")
    assert problem["status"] == 409
    assert [view.name for view in client.status().applications] == ["first"]
    client.deploy(application("second", None))
    client.deploy(application("third", None))
    client.deploy(application("first", "/same"))


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"{}", msgspec.msgpack.encode({"name": "app"}), msgspec.msgpack.encode([1])]
)
def test_a_body_that_is_no_application_is_400(server: Server, body: bytes) -> None:
    status, kind, problem = ask(server, "PUT", "/api/v1/applications/app", body)
    assert (status, kind) == (400, "application/problem+json")
    assert problem["detail"].startswith("not an application")


def test_the_path_and_the_body_must_name_the_same(server: Server) -> None:
    body = msgspec.msgpack.encode(application("one"))
    status, _, problem = ask(server, "PUT", "/api/v1/applications/other", body)
    assert (status, problem["detail"]) == (400, "the path names 'other', the body 'one'")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1/nothing", 404),
        ("POST", "/api/v1/status", 405),
        ("GET", "/api/v1/applications/app", 405),
        ("GET", "/api/v1/status?wait_s=rubbish&settled=app", 200),
        ("GET", "/api/v1/status?wait_s=-5&settled=app", 200),
        ("GET", "/api/v1/status?wait_s=nan&settled=app", 200),
    ],
)
def test_other_requests(server: Server, method: str, path: str, status: int) -> None:
    assert ask(server, method, path)[0] == status


def test_waiting_ends_with_the_time_given(client: ControlClient) -> None:
    client.deploy(application(target=Waits))
    view = client.wait_settled("app", 0.01)
    assert view is not None
    assert view.status == "DEPLOYING"
    assert client.wait_settled("unknown", 30) is None


def test_waiting_ends_with_the_server(server: Server, client: ControlClient) -> None:
    client.deploy(application(target=Waits))
    assert constructing.wait(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait_settled, "app", 60)
        assert client.status().applications[0].status == "DEPLOYING"
        server.stop()
        try:
            view = waiting.result(30)
        except ControlUnreachable:
            return  # it came too late, and has found nobody
    assert view is not None
    assert view.status == "DEPLOYING"


def test_a_client_without_an_instance_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlUnreachable, match="The instance is gone"):
        ControlClient(tmp_path / "control.sock").status()


CONNECT_AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.settimeout(30)
try:
    peer.sendall(b"GET /api/v1/status HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n")
    print("read", peer.recv(100))
except ConnectionError:
    print("read", b"")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_before_a_request_is_read(server: Server, client: ControlClient) -> None:
    server.path.parent.chmod(0o755)
    server.path.chmod(0o666)
    done = subprocess.run(
        [sys.executable, "-c", CONNECT_AS_NOBODY, server.path], capture_output=True, timeout=30, check=True
    )
    assert done.stdout == b"read b''\n"
    assert client.status().applications == ()
