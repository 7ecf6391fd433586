"""Scaling, rolling back and the table of routes: what is refused, with which status, in what words."""

from __future__ import annotations

import msgspec
import pytest

from salver.controller.client import ControlClient, ControlRefused, ControlUnreachable
from salver.records import ApplicationSpec

from .control_scene import Model, Server, application, ask

SCALE = "/api/v1/applications/app/deployments/d/scale"


def scalable() -> ApplicationSpec:
    return msgspec.structs.replace(application(), external_scaler=True)


def test_somebody_outside_scales(client: ControlClient) -> None:
    client.deploy(scalable())
    client.wait_settled("app", 30)
    client.scale("app", "d", 3)
    view = client.wait_settled("app", 30)
    assert view is not None
    assert view.external_scaler
    assert (view.deployments[0].target_num_replicas, view.deployments[0].replica_states) == (3, {"RUNNING": 3})
    assert client.details()["applications"]["app"]["external_scaler_enabled"] is True


@pytest.mark.parametrize(
    ("app", "deployment", "number", "status", "message"),
    [
        ("app", "d", -1, 400, "target_num_replicas"),
        ("app", "d", 10**9, 400, "target_num_replicas"),
        ("app", "other", 1, 404, "Deployment 'other' does not exist in application 'app'"),
        ("other", "d", 1, 404, "does not exist"),
        ("fixed", "d", 1, 412, "external_scaler_enabled=True"),
    ],
)
def test_scaling_that_is_refused(
    client: ControlClient, app: str, deployment: str, number: int, status: int, message: str
) -> None:
    client.deploy(scalable())
    client.deploy(application("fixed", "/fixed"))
    with pytest.raises(ControlRefused, match=message) as refused:
        client.scale(app, deployment, number)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"replicas": 1}',
        b'{"target_num_replicas": "3"}',
        b'{"target_num_replicas": 1.5}',
        b'{"target_num_replicas": null}',
        b'{"target_num_replicas": true}',
        b'{"target_num_replicas": 1, "x": 1}',
    ],
)
def test_a_number_of_replicas_is_a_whole_number(server: Server, client: ControlClient, body: bytes) -> None:
    client.deploy(scalable())
    status, kind, problem = ask(server, "POST", SCALE, body)
    assert (status, kind) == (400, "application/problem+json")
    assert problem["title"] == "Bad Request"


class Second(Model):
    pass


def test_rolling_back(client: ControlClient) -> None:
    with pytest.raises(ControlRefused, match="does not exist") as refused:
        client.rollback("app")
    assert refused.value.status == 404
    client.deploy(application())
    client.wait_settled("app", 30)
    with pytest.raises(ControlRefused, match="no earlier version") as refused:
        client.rollback("app")
    assert refused.value.status == 409
    updated = application(target=Second)
    deployment = msgspec.structs.replace(updated.deployments[0], version="v2")
    client.deploy(msgspec.structs.replace(updated, deployments=(deployment,)))
    view = client.wait_settled("app", 30)
    assert view is not None
    assert (view.status, view.can_roll_back) == ("RUNNING", True)
    rolled_back_at_s = client.rollback("app")
    view = client.wait_settled("app", 30)
    assert view is not None
    assert view.last_deployed_time_s == rolled_back_at_s
    assert {replica.version for replica in view.deployments[0].replicas if replica.state == "RUNNING"} == {"v1"}


def test_what_has_happened_is_recorded(client: ControlClient) -> None:
    client.deploy(scalable())
    client.wait_settled("app", 30)
    client.scale("app", "d", 2)
    client.wait_settled("app", 30)
    assert client.delete("app", 30)
    kinds = [each.kind for each in client.events()]
    assert kinds[0] == "deploy"
    assert {"scale", "delete"} <= set(kinds)
    assert {each.app for each in client.events(app="app")} == {"app"}


def test_a_rollback_is_never_sent_twice(server: Server, client: ControlClient) -> None:
    """The server goes away with the request: it may have been done."""
    server.stop()
    with pytest.raises(ControlUnreachable):
        client.rollback("app")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/api/serve/applications/", "DELETE, GET, HEAD, PUT"),
        ("GET", "/api/v1/applications/x", "DELETE, PUT"),
        ("OPTIONS", "/api/v1/status", "GET, HEAD"),
        ("GET", SCALE, "POST"),
        ("GET", "/api/v1/checks", "POST"),
        ("DELETE", "/api/v1/checks/known", "GET, HEAD"),
        ("DELETE", "/livez", "GET, HEAD"),
        ("PATCH", "/openapi.json", "GET, HEAD"),
    ],
)
def test_another_method_is_405_with_those_that_are_allowed(
    server: Server, method: str, path: str, allow: str
) -> None:
    status, kind, problem = ask(server, method, path)
    assert (status, kind) == (405, "application/problem+json")
    assert allow in problem["detail"]


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/serve/applications", "/livez/", "/api/v1/applications/", "//"]
)
def test_another_path_is_404(server: Server, path: str) -> None:
    status, kind, problem = ask(server, "GET", path)
    assert (status, kind, problem["status"]) == (404, "application/problem+json", 404)


def test_head_is_get_without_the_body(server: Server) -> None:
    for endpoint in server.api.endpoints():
        if endpoint.method == "GET":
            path = endpoint.path.replace("{check}", "known")
            assert ask(server, "HEAD", path)[::2] == (200, b""), path


def test_a_failure_of_ours_is_a_problem_that_says_little(
    server: Server, client: ControlClient, caplog: pytest.LogCaptureFixture
) -> None:
    server.configs.taken = {"applications": 5}
    server.configs.states = {"x": None}  # type: ignore[dict-item]
    status, kind, problem = ask(server, "GET", "/api/v1/status")
    assert (status, kind) == (500, "application/problem+json")
    assert problem["detail"] == "The controller failed at this; its log says why."
    assert "GET /api/v1/status failed" in caplog.text
