"""Deployments, how they are bound together, and what an instance makes of them; the test is the driver."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from harness.instance import SalverRun
from salver import serve
from salver.serve.handle import DeploymentHandle

WITHIN_S = 30.0


@serve.deployment
class Store:
    """Notes every construction in a file."""

    def __init__(self, log: str, content: str = "") -> None:
        self.content = content
        with open(log, "a") as file:
            file.write(f"{content}\n")

    def get(self) -> str:
        return self.content


@dataclass
class Parts:
    """An object of the user's with a deployment inside."""

    main: Any
    others: dict[str, list[Any]]


@serve.deployment
class Root:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    async def handles(self) -> list[Any]:
        return [self.args, self.kwargs]

    async def contents(self) -> list[str]:
        parts: Parts = self.args[0]
        return [await handle.get.remote() for handle in (parts.main, *parts.others["list"])]


@serve.deployment
class SlowlyMade:
    async def __init__(self, value: int) -> None:
        await asyncio.sleep(0)
        self.value = value

    def __call__(self) -> int:
        return self.value


@serve.deployment
def double(value: int, *, plus: int = 0) -> int:
    return 2 * value + plus


@serve.deployment
async def double_async(value: int) -> int:
    return 2 * value


@serve.deployment(num_replicas=3, max_ongoing_requests=10)
class WhoAmI:
    def __call__(self) -> str:
        return str(os.getpid())


# --- decorating ---------------------------------------------------------------------------------------------


def test_functions_are_called_with_the_arguments_given(instance_url: str) -> None:
    assert serve.run(double.bind()).remote(3, plus=1).result() == 7
    assert serve.run(double_async.bind()).remote(3).result() == 6


def test_a_constructor_may_be_asynchronous(instance_url: str) -> None:
    assert serve.run(SlowlyMade.bind(value=5)).remote().result() == 5
    assert requests.get(instance_url, timeout=WITHIN_S).json() == 5


def test_options_make_a_copy(instance_url: str) -> None:
    renamed = SlowlyMade.options(name="Renamed", num_replicas=2)
    serve.run(Root.bind(SlowlyMade.bind(1), renamed.bind(2)))
    deployments = serve.status().applications["default"].deployments
    assert {name: each.target_num_replicas for name, each in deployments.items()} == {
        "SlowlyMade": 1,
        "Renamed": 2,
        "Root": 1,
    }
    assert SlowlyMade.name == "SlowlyMade"


# --- binding ------------------------------------------------------------------------------------------------


def test_applications_anywhere_in_the_arguments_become_handles(instance_url: str, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    parts = Parts(Store.bind(log, "main"), {"list": [Store.bind(log, "one"), Store.bind(log, "two")]})
    handle = serve.run(Root.bind(parts))
    assert handle.contents.remote().result(timeout_s=WITHIN_S) == ["main", "one", "two"]
    assert list(serve.status().applications["default"].deployments) == ["Store", "Store_1", "Store_2", "Root"]


def test_an_application_that_is_used_twice_is_one_deployment(instance_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shared = Store.bind(str(log), "shared")
    handle = serve.run(Root.bind(shared, [shared], key={"deep": (shared,)}))
    (first, in_list), kwargs = handle.handles.remote().result(timeout_s=WITHIN_S)
    found: list[DeploymentHandle[Any]] = [first, in_list[0], kwargs["key"]["deep"][0]]
    assert [each.deployment_name for each in found] == ["Store"] * 3
    assert found[0].get.remote().result() == "shared"
    assert log.read_text() == "shared\n", "constructed once"


# --- replicas -----------------------------------------------------------------------------------------------


def test_requests_are_shared_evenly_by_the_replicas(instance_url: str) -> None:
    handle = serve.run(WhoAmI.bind())
    pids = {str(each.pid) for each in serve.status().applications["default"].deployments["WhoAmI"].replicas}
    assert len(pids) == 3

    def ask(_: int) -> str:
        return requests.get(instance_url, timeout=WITHIN_S).text

    with ThreadPoolExecutor(8) as pool:
        by_http = Counter(pool.map(ask, range(150)))
    by_handle = Counter(response.result(timeout_s=WITHIN_S) for response in [handle.remote() for _ in range(150)])
    one_by_one = Counter(handle.remote().result() for _ in range(150))
    for answers in (by_http, by_handle, one_by_one):
        assert set(answers) == pids
        assert min(answers.values()) >= 10, answers  # a replica that the machine slows down gets fewer
    assert min(one_by_one.values()) >= 45, "idle replicas take turns"


# --- what the command line adds -------------------------------------------------------------------------------

BUILDERS = """
from pydantic import BaseModel
from salver import serve

@serve.deployment
class Echo:
    def __init__(self, *values):
        self.values = values

    def __call__(self):
        return [*self.values, *(type(value).__name__ for value in self.values)]

def of_dict(args: dict[str, str]):
    return Echo.bind(args["size"], args["name"])

class Arguments(BaseModel):
    size: int
    name: str = "nobody"

def of_model(args: Arguments):
    return Echo.bind(args.size, args.name)

def without_annotation(args):
    return Echo.bind(sorted(args.items()))
"""


@pytest.mark.parametrize(
    ("builder", "arguments", "expected"),
    [
        ("of_dict", ["size=3", "name=a=b"], ["3", "a=b", "str", "str"]),
        ("of_model", ["size=3"], [3, "nobody", "int", "str"]),
        ("without_annotation", [], [[], "list"]),
    ],
)
def test_a_builder_function_gets_the_arguments_of_the_command_line(
    salver_run: Callable[..., SalverRun], builder: str, arguments: list[str], expected: list[Any]
) -> None:
    run = salver_run(f"app:{builder}", *arguments, "--port", "0", files={"app.py": BUILDERS})
    assert requests.get(run.url, timeout=WITHIN_S).json() == expected


OPTIONS = """
from salver import serve

@serve.deployment(
    ray_actor_options={"num_cpus": 0.5, "num_gpus": 0.25, "resources": {"npu": 2}},
    graceful_shutdown_wait_loop_s=5,
)
class Model:
    def __call__(self):
        return "ok"

app = Model.bind()
"""


def test_resources_are_shown_and_options_without_effect_warn_once(salver_run: Callable[..., SalverRun]) -> None:
    machine = ("--num-gpus", "1", "--resources", '{"npu": 2}')
    run = salver_run("app:app", "--port", "0", *machine, files={"app.py": OPTIONS})
    deployment = run.status()["applications"]["default"]["deployments"]["Model"]
    stated = deployment["options"]["ray_actor_options"]
    assert (stated["num_cpus"], stated["num_gpus"], stated["resources"]) == (0.5, 0.25, {"npu": 2})
    table = run.cli("status").stdout
    assert "0.5 CPU, 0.25 GPU, 2 npu" in table
    assert "RESOURCES" in table
    warning = "option 'graceful_shutdown_wait_loop_s' of deployment 'Model' is accepted but has no effect"
    assert run.output().count(warning) == 1, run.output()
