"""The life of applications: several of them, updates, failures, status, configuration, metrics, log records."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from harness.waiting import eventually
from salver import serve
from salver.serve.exceptions import DeploymentUnavailableError, RayServeException
from salver.serve.handle import DeploymentHandle
from salver.serve.metrics import Counter, Histogram

from .world import WITHIN_S, World, soon

served = Counter("parity_served", "Requests.", tag_keys=("kind",))


@serve.deployment
class Greeter:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, request: Request) -> str:
        return f"{self.greeting} at {request.scope['root_path']}"

    def greet(self) -> str:
        return self.greeting


@serve.deployment
class Picky:
    """Its constructor is told whether to fail."""

    def __init__(self, path: str) -> None:
        with open(path, "a") as file:
            file.write("tried\n")
        raise LookupError("no weights here")


@serve.deployment(num_replicas=2)
class Holder:
    def __init__(self, values: list[int], *, more: dict[str, int]) -> None:
        self.values = values
        self.more = more

    def add(self) -> tuple[list[int], dict[str, int]]:
        self.values.append(len(self.values))
        return self.values, self.more


@serve.deployment
class Configured:
    """Remembers its configuration."""

    def __init__(self) -> None:
        self.config: Any = None

    async def reconfigure(self, config: dict[str, Any]) -> None:
        if config["threshold"] < 0:
            raise ValueError("a negative threshold")
        self.config = config

    def __call__(self) -> Any:
        return self.config


@serve.deployment
class Counting:
    """Counts into metrics and into the log."""

    def __init__(self) -> None:
        self.sizes = Histogram("parity_sizes", boundaries=[1, 10])
        self.records: list[dict[str, Any]] = []
        self.handler = _Keep(self.records)
        self.logger = logging.getLogger("ray.serve.parity")
        self.logger.addHandler(self.handler)

    async def __call__(self, request: Request) -> list[dict[str, Any]]:
        served.inc(tags={"kind": "http"})
        self.sizes.observe(5)
        self.logger.warning("hello")
        return self.records

    def fail(self) -> None:
        raise LookupError("for the metrics")

    def stop(self) -> None:
        self.logger.removeHandler(self.handler)


class _Keep(logging.Handler):
    def __init__(self, records: list[dict[str, Any]]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        names = ("request_id", "route", "application", "deployment", "replica")
        self.records.append({name: getattr(record, name) for name in names})


def result(response: Any) -> Any:
    return response.result(timeout_s=WITHIN_S)


def test_applications_side_by_side(world: World) -> None:
    for name, prefix in (("root", "/"), ("deep", "/a/b"), ("shallow", "/a")):
        world.run(Greeter.bind(name), name, prefix)
    hidden = world.run(Greeter.bind("hidden"), "hidden", None)
    paths = {"/": "root at ", "/x": "root at ", "/a": "shallow at /a", "/a/b/c": "deep at /a/b", "/ab": "root at "}
    assert {path: world.get(path).text for path in paths} == paths
    assert result(hidden.greet.remote()) == "hidden"
    status = serve.status().applications
    assert {name: view.status for name, view in status.items()} == dict.fromkeys(
        ("root", "deep", "shallow", "hidden"), "RUNNING"
    )
    assert status["deep"].deployments["Greeter"].status == "HEALTHY"
    serve.delete("shallow")
    assert world.get("/a").text == "root at "


def test_a_prefix_belongs_to_one_application(world: World) -> None:
    world.run(Greeter.bind("first"), "first", "/taken")
    with pytest.raises(ValueError, match='Prefix /taken is being used by application "first"'):
        world.run(Greeter.bind("second"), "second", "/taken")
    assert world.get("/taken").text == "first at /taken"
    for wrong in ("no-slash", "/slash/", "/{braces}"):
        with pytest.raises(ValueError, match="route_prefix"):
            world.run(Greeter.bind("x"), "x", wrong)


def test_running_again_updates(world: World) -> None:
    handle = world.run(Greeter.bind("before"), route_prefix="/one")
    replica = replica_ids()
    world.run(Greeter.bind("before"), route_prefix="/one")
    assert replica_ids() == replica
    world.run(Greeter.bind("after"), route_prefix="/two")
    soon("the old replica is gone", lambda: len(replica_ids()) == 1 and not replica_ids() & replica)
    assert result(handle.greet.remote()) == "after"
    soon("the route has moved", lambda: world.get("/one").status_code == 404)
    assert world.get("/two").text == "after at /two"


def replica_ids() -> set[str]:
    return {each.replica_id for each in serve.status().applications["app"].deployments["Greeter"].replicas}


def test_deleted_is_gone(world: World) -> None:
    handle = world.run(Greeter.bind("x"))
    serve.delete("app")
    serve.delete("app")
    serve.delete("never was")
    assert serve.status().applications == {}
    assert world.get("/").status_code == 404
    with pytest.raises(DeploymentUnavailableError):
        result(handle.greet.remote())
    with pytest.raises(RayServeException, match="Application 'app' does not exist"):
        serve.get_app_handle("app")


def test_a_constructor_that_fails_is_an_error_with_its_traceback(world: World, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    with pytest.raises(RuntimeError, match="Deploying application app failed") as failed:
        world.run(Picky.options(max_constructor_retry_count=2).bind(str(tries)))
    assert "LookupError: no weights here" in str(failed.value)
    assert "in __init__" in str(failed.value)
    assert tries.read_text().split() == ["tried"] * 2
    assert serve.status().applications["app"].status == "DEPLOY_FAILED"


def test_what_ran_before_a_failed_update_still_runs(world: World, tmp_path: Path) -> None:
    handle = world.run(Greeter.bind("well"))
    with pytest.raises(RuntimeError, match="no weights here"):
        world.run(Picky.options(name="Greeter", max_constructor_retry_count=1).bind(str(tmp_path / "tries")))
    assert result(handle.greet.remote()) == "well"


def test_constructor_arguments_are_copied_for_each_replica(world: World) -> None:
    values, more = [0], {"a": 1}
    handle = world.run(Holder.bind(values, more=more))
    values.append(7)
    more["b"] = 2
    answers: list[tuple[list[int], dict[str, int]]] = []

    def both_were_asked() -> bool:  # the second may be connected later than the first
        answers.append(result(handle.options(session_id=str(len(answers))).add.remote()))
        return max(len(got[0]) for got in answers) < len(answers)

    eventually("each replica has a list of its own", both_were_asked, 20)
    assert all(got == (list(range(len(got[0]))), {"a": 1}) for got in answers)


def test_user_config(world: World) -> None:
    world.run(Configured.options(user_config={"threshold": 1}).bind())
    assert world.get("/").json() == {"threshold": 1}
    world.run(Configured.options(user_config={"threshold": 2}).bind())
    assert world.get("/").json() == {"threshold": 2}
    with pytest.raises(RuntimeError, match="a negative threshold"):
        world.run(Configured.options(user_config={"threshold": -1}, max_constructor_retry_count=1).bind())
    assert world.get("/").json() == {"threshold": 2}


def test_metrics_of_user_code_and_of_the_request_path(world: World) -> None:
    before = {
        "parity_served": world.metric("parity_served", kind="http"),
        "parity_sizes": world.metric("parity_sizes", deployment="Counting", application="app"),
        "serve_num_http_requests": world.metric("serve_num_http_requests", route="/count", status_code="200"),
    }
    handle = world.run(Counting.bind(), route_prefix="/count")
    for _ in range(3):
        assert world.get("/count").status_code == 200
    with pytest.raises(LookupError):
        result(handle.fail.remote())
    result(handle.stop.remote())
    tags = {"parity_served": {"kind": "http"}, "parity_sizes": {"deployment": "Counting", "application": "app"}}
    tags["serve_num_http_requests"] = {"route": "/count", "status_code": "200"}
    for name, value in before.items():
        soon(f"{name} counts", lambda name=name, value=value: world.metric(name, **tags[name]) == value + 3)
    failures = {"deployment": "Counting", "exception_type": "LookupError"}
    soon("the failure is counted", lambda: world.metric("serve_deployment_error_counter", **failures) >= 1)


def test_log_records_say_whose_they_are(world: World) -> None:
    handle: DeploymentHandle[Any] = world.run(Counting.bind(), route_prefix="/count")
    (record,) = world.get("/count", headers={"x-request-id": "mine"}).json()
    assert record.pop("replica").startswith("app#Counting#")
    assert record == {"request_id": "mine", "route": "/count", "application": "app", "deployment": "Counting"}
    result(handle.stop.remote())
