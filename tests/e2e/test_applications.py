"""Several applications side by side, and the same one deployed again; the test is the driver."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import eventually
from salver import serve
from salver.serve.exceptions import RayServeException
from salver.serve.handle import DeploymentHandle
from salver.serve.schema import ApplicationStatus, DeploymentStatus

WITHIN_S = 30.0


@serve.deployment
class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> str:
        return self.name


@serve.deployment
class Front:
    def __init__(self, *behind: DeploymentHandle[Any]) -> None:
        self.behind = behind

    async def __call__(self) -> list[str]:
        return [await handle.remote() for handle in self.behind]


@serve.deployment
class Elsewhere:
    """Calls another application than its own."""

    async def __call__(self) -> str:
        return await serve.get_app_handle("named").remote()


def pids(name: str) -> dict[str, set[int | None]]:
    """Of every replica of the application, by deployment."""
    application = serve.status().applications[name]
    return {each: {replica.pid for replica in view.replicas} for each, view in application.deployments.items()}


def get(url: str) -> tuple[int, str]:
    answer = requests.get(url, timeout=WITHIN_S)
    return answer.status_code, answer.text


# --- routes -------------------------------------------------------------------------------------------------


def test_the_longest_prefix_wins_and_ends_at_a_slash(instance_url: str) -> None:
    base = instance_url.rstrip("/")
    for name, prefix in (("a", "/a"), ("deep", "/a/b"), ("ab", "/ab")):
        serve.run(Named.bind(name), name=name, route_prefix=prefix)
    found = {
        path: get(f"{base}{path}") for path in ("/a", "/a/", "/a?x=/ab", "/a/x", "/a/b", "/a/b/x", "/a/bx", "/ab")
    }
    assert {path: answer[1] for path, answer in found.items()} == {
        "/a": "a",
        "/a/": "a",
        "/a?x=/ab": "a",
        "/a/x": "a",
        "/a/b": "deep",
        "/a/b/x": "deep",
        "/a/bx": "a",
        "/ab": "ab",
    }
    assert get(f"{base}/abc") == (404, f"Path '/abc' not found. Ping {base}/-/routes for available routes.")
    assert get(f"{base}/")[0] == 404
    assert requests.get(f"{base}/-/routes", timeout=WITHIN_S).json() == {"/a": "a", "/a/b": "deep", "/ab": "ab"}

    serve.run(Named.bind("root"), name="root")
    assert get(f"{base}/abc") == (200, "root")
    serve.delete("a")
    assert get(f"{base}/a/x") == (200, "root")
    assert get(f"{base}/a/b") == (200, "deep")


def test_without_a_route_only_handles_get_there(instance_url: str) -> None:
    handle = serve.run(Named.bind("hidden"), name="hidden", route_prefix=None)
    assert handle.remote().result() == "hidden"
    assert get(instance_url)[0] == 404
    assert serve.status().applications["hidden"].route_prefix is None


def test_a_prefix_is_free_again_after_its_application(instance_url: str) -> None:
    serve.run(Named.bind("first"), name="first")
    with pytest.raises(RayServeException, match='Prefix / is being used by application "first"'):
        serve.run(Named.bind("second"), name="second")
    assert get(instance_url) == (200, "first")
    serve.delete("first")
    serve.run(Named.bind("second"), name="second")
    assert get(instance_url) == (200, "second")


# --- finding them -------------------------------------------------------------------------------------------


def test_handles_by_name(instance_url: str) -> None:
    serve.run(Front.bind(Named.bind("behind")), name="front", route_prefix="/front")
    serve.run(Named.bind("named"), name="named", route_prefix=None)
    serve.run(Elsewhere.bind(), name="elsewhere", route_prefix="/elsewhere")
    assert serve.get_app_handle("front").remote().result() == ["behind"]
    assert serve.get_deployment_handle("Named", "front").remote().result() == "behind"
    assert serve.get_app_handle("elsewhere").remote().result() == "named", "applications call each other"
    with pytest.raises(RayServeException, match=r"^Application 'nope' does not exist\.$"):
        serve.get_app_handle("nope")
    with pytest.raises(RayServeException, match=r"^Deployment 'Nope' does not exist in application 'front'\.$"):
        serve.get_deployment_handle("Nope", "front")


def test_status_is_as_the_reference_has_it(instance_url: str) -> None:
    serve.run(Front.bind(Named.bind("a"), Named.options(name="B", num_replicas=2).bind("b")))
    status = serve.status()
    assert {name: each.value for name, each in status.proxies.items()} == {"localhost": "HEALTHY"}
    application = status.applications["default"]
    assert application.status is ApplicationStatus.RUNNING
    assert {name: each.status for name, each in application.deployments.items()} == dict.fromkeys(
        ("Named", "B", "Front"), DeploymentStatus.HEALTHY
    )
    assert application.deployments["B"].replica_states == {"RUNNING": 2}
    assert application.last_deployed_time_s > 0


# --- again --------------------------------------------------------------------------------------------------


def test_running_the_same_again_keeps_the_replicas(instance_url: str) -> None:
    serve.run(Front.bind(Named.bind("a")))
    before = pids("default")
    handle = serve.run(Front.bind(Named.bind("a")))
    assert pids("default") == before
    assert handle.remote().result() == ["a"]


def test_an_update_touches_what_has_changed_only(instance_url: str) -> None:
    serve.run(Named.bind("other"), name="other", route_prefix="/other")
    serve.run(
        Front.bind(Named.options(name="Kept").bind("kept"), Named.bind("old"), Named.options(name="Gone").bind("g"))
    )
    before, other = pids("default"), pids("other")
    handle = serve.run(Front.bind(Named.options(name="Kept").bind("kept"), Named.bind("new")))
    assert handle.remote().result() == ["kept", "new"]
    assert get(instance_url) == (200, '["kept","new"]')
    eventually("the old ones are gone", lambda: sum(map(len, pids("default").values())) == 3, WITHIN_S)
    after = pids("default")
    assert sorted(after) == ["Front", "Kept", "Named"]
    assert after["Kept"] == before["Kept"]
    assert after["Named"].isdisjoint(before["Named"])
    assert pids("other") == other


def test_more_replicas_leave_those_there_are(instance_url: str) -> None:
    serve.run(Named.bind("a"))
    before = pids("default")["Named"]
    serve.run(Named.options(num_replicas=3).bind("a"))
    after = pids("default")["Named"]
    assert len(after) == 3
    assert before < after


# --- the end ------------------------------------------------------------------------------------------------


def test_delete_waits_until_it_is_gone(instance_url: str) -> None:
    serve.run(Named.bind("a"), name="a", route_prefix="/a")
    serve.run(Named.bind("b"), name="b", route_prefix="/b")
    (gone,) = pids("a")["Named"]
    assert gone is not None
    serve.delete("a")
    assert list(serve.status().applications) == ["b"]
    with pytest.raises(ProcessLookupError):
        os.kill(gone, 0)
    serve.delete("a")
    serve.delete("never there")
    assert get(f"{instance_url}b") == (200, "b")


def test_shutdown_may_be_repeated_and_serve_started_again(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    source = """
from salver import serve
from salver.serve.exceptions import RayServeException

@serve.deployment
def named():
    return "again"

serve.start(http_options={"port": 0})
serve.run(named.bind())
serve.shutdown()
serve.shutdown()
try:
    serve.status()
except RayServeException as error:
    print(error)
serve.start(http_options={"port": 0})
print(serve.run(named.bind()).remote().result())
"""
    answer = run_python(source)
    assert answer.stdout.startswith("No instance is running"), answer.stderr
    assert answer.stdout.endswith("\nagain\n"), answer.stderr


def test_a_second_start_is_ignored_with_a_warning(instance_url: str) -> None:
    with pytest.warns(UserWarning, match="Serve is already running; the options of this start are ignored"):
        serve.start(http_options={"port": 1})
    assert serve.status().instance.url == instance_url


# --- from the command line ----------------------------------------------------------------------------------

APP = """
from salver import serve

@serve.deployment
class Named:
    def __init__(self, name):
        self.name = name

    def __call__(self):
        return self.name

first = Named.bind("first")
second = Named.bind("second")
"""


def test_a_command_joins_a_running_instance_and_takes_only_its_own_away(salver_run: Callable[..., SalverRun]) -> None:
    first = salver_run("app:first", "--port", "0", files={"app.py": APP})
    taken = first.cli("run", "app:second", "--instance", first.name, "--name", "second", "--non-blocking")
    assert taken.returncode == 1
    assert taken.stderr.endswith(
        'Error: Prefix / is being used by application "default". Failed to deploy application "second".\n'
    )
    second = salver_run(
        "app:second", "--instance", first.name, "--name", "second", "--route-prefix", "/second", beside=first
    )
    assert second.url == f"{first.url}second"
    assert (get(first.url), get(second.url)) == ((200, "first"), (200, "second"))
    second.interrupt()
    assert second.wait(WITHIN_S) == 0
    assert get(second.url) == (200, "first"), "the rest of the instance goes on"
    assert list(first.status()["applications"]) == ["default"]


def test_two_runs_on_two_ports_and_commands_that_must_choose(salver_run: Callable[..., SalverRun]) -> None:
    first = salver_run("app:first", "--port", "0", files={"app.py": APP})
    second = salver_run("app:second", "--port", "0", beside=first)
    assert (get(first.url), get(second.url)) == ((200, "first"), (200, "second"))
    unclear = first.cli("status")
    assert unclear.returncode == 1
    assert unclear.stderr.startswith("Error: Several instances are running: choose one with --instance NAME.\n")
    for run in (first, second):
        assert f"\n  {run.name:<12} {run.url}" in unclear.stderr
    assert first.cli("shutdown", "--instance", second.name).returncode == 0
    assert second.wait(WITHIN_S) == 0
    assert first.cli("status").returncode == 0, "only one is left"
    assert get(first.url) == (200, "first")


def test_an_instance_is_healthy_while_an_application_can_answer(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    source = """
from urllib.error import HTTPError
from urllib.request import urlopen
from salver import serve

def health():
    try:
        return urlopen(serve.status().instance.url + "-/healthz").status
    except HTTPError as error:
        return error.code

@serve.deployment
def hello(request):
    return "hello"

serve.start(http_options={"port": 0})
seen = [health()]
serve.run(hello.bind())
seen.append(health())
serve.delete("default")
seen.append(health())
print(seen)
"""
    answer = run_python(source)
    assert answer.stdout == "[503, 200, 503]\n", answer.stderr
