"""Many models on a few replicas: ``salver run``, HTTP headers, handles, eviction, and the death of a replica."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import eventually

WITHIN_S = 30.0
SalverRunFixture = Callable[..., SalverRun]

SOURCE = """
import os
from pathlib import Path
from salver import serve

class Model:
    def __init__(self, name):
        self.name = name
        note("loaded", name)

    async def __del__(self):
        note("unloaded", self.name)

def note(what, name):
    with open("notes", "a") as file:
        file.write(f"{what} {name} {os.getpid()}\\n")

@serve.deployment(num_replicas=3)
class Models:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> Model:
        return Model(model_id)

    async def __call__(self, request=None):
        model = await self.load(serve.get_multiplexed_model_id())
        return {"model": model.name, "pid": os.getpid()}

    async def name(self):
        return serve.get_multiplexed_model_id()

@serve.deployment
class Front:
    def __init__(self, models):
        self.models = models

    async def __call__(self, request):
        name = serve.get_multiplexed_model_id()
        called = await self.models.options(multiplexed_model_id=f"{name} of front").remote()
        return {**called, "own": name, "inherited": await self.models.name.remote()}

models = Models.bind()
front = Front.bind(Models.bind())
"""


@pytest.fixture
def models(salver_run: SalverRunFixture) -> SalverRun:
    return salver_run("many:models", "--port", "0", files={"many.py": SOURCE})


def ask(run: SalverRun, model_id: str, header: str = "serve_multiplexed_model_id") -> dict[str, Any]:
    answer = requests.get(run.url, headers={header: model_id}, timeout=WITHIN_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def notes(run: SalverRun, what: str) -> list[str]:
    """Names of the models that were loaded or unloaded, in order."""
    lines = (run.cwd / "notes").read_text().splitlines() if (run.cwd / "notes").exists() else []
    return [line.split()[1] for line in lines if line.startswith(f"{what} ")]


def test_each_model_is_loaded_once_and_stays_where_it_is(models: SalverRun) -> None:
    where = {model: ask(models, model)["pid"] for model in "abcdef"}
    assert set(Counter(where.values()).values()) == {2}, "two on each of three replicas"
    for model in "abcdef" * 5:
        assert ask(models, model) == {"model": model, "pid": where[model]}
    assert ask(models, "a", "serve-multiplexed-model-id")["pid"] == where["a"]
    assert notes(models, "loaded") == list("abcdef")
    assert notes(models, "unloaded") == []


def test_models_are_unloaded_when_others_come_and_at_the_end(models: SalverRun) -> None:
    for model in "abcdefghi":
        ask(models, model)
    assert len(set(notes(models, "unloaded"))) == 3, "as many as are too much for three replicas"
    models.interrupt()
    assert models.wait(WITHIN_S) == 0
    assert sorted(notes(models, "unloaded")) == list("abcdefghi"), models.output()


def test_a_model_of_a_dead_replica_is_loaded_elsewhere(models: SalverRun) -> None:
    where = {model: ask(models, model)["pid"] for model in "abc"}
    os.kill(where["a"], signal.SIGKILL)
    eventually("the replica is replaced", lambda: _is_replaced(models, where["a"]), WITHIN_S)
    assert ask(models, "a")["pid"] != where["a"]
    assert {model: ask(models, model)["pid"] for model in "bc"} == {model: where[model] for model in "bc"}


def _is_replaced(run: SalverRun, dead: int) -> bool:
    replicas = run.status()["applications"]["default"]["deployments"]["Models"]["replicas"]
    running = {replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}
    return len(running) == 3 and dead not in running


def test_a_request_without_a_model_id_is_told_so_in_the_log(models: SalverRun) -> None:
    assert requests.get(models.url, timeout=WITHIN_S).status_code == 500
    models.wait_for_output("ValueError: The model ID cannot be empty.", WITHIN_S)


def test_handles_name_a_model_for_one_call_and_nothing_is_inherited(salver_run: SalverRunFixture) -> None:
    run = salver_run("many:front", "--port", "0", files={"many.py": SOURCE})
    answers = [ask(run, "x") for _ in range(10)]
    assert {(each["model"], each["own"], each["inherited"]) for each in answers} == {("x of front", "x", "")}
    assert len({each["pid"] for each in answers}) == 1
    assert notes(run, "loaded") == ["x"]
