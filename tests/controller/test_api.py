"""The control API over its real socket: a server, a controller on the memory engine, and the blocking client."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from salver.controller.client import ControlClient, ControlRefused, ControlUnreachable

from .control_scene import INFO, Broken, Server, Waits, application, ask, constructing


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
        ("GET", "/api/v1/status?wait_s=rubbish&settled=app", 400),
        ("GET", "/api/v1/status?wait_s=-5&settled=app", 200),
        ("GET", "/api/v1/status?wait_s=nan&settled=app", 400),
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
