"""More requests than a replica takes: slots, queues, back-pressure; and requests that share work: batches, models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.requests import Request

from salver import serve
from salver.serve.deployment import Deployment
from salver.serve.exceptions import BackPressureError
from salver.serve.handle import DeploymentHandle

from .world import WITHIN_S, World, soon


@serve.deployment
class Gate:
    """Lets requests of others wait until the test opens it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def open(self) -> None:
        self.opened.set()

    async def passed(self) -> None:
        await self.opened.wait()


@serve.deployment(max_ongoing_requests=2)
class Worker:
    """Counts who is inside."""

    def __init__(self, gate: DeploymentHandle[Any]) -> None:
        self.gate = gate
        self.now = self.most = 0

    async def __call__(self) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.passed.remote()
        finally:
            self.now -= 1
        return "done"

    async def counts(self) -> tuple[int, int]:
        return self.now, self.most


@serve.deployment(max_ongoing_requests=4)
class InThreads:
    """``def`` runs in as many threads as there are slots."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(4)

    def meet(self) -> int:
        return self.barrier.wait(WITHIN_S)


@serve.deployment(max_ongoing_requests=20)
class Batches:
    """Tells which batch an item was in."""

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=WITHIN_S)
    async def sizes(self, items: list[int]) -> list[int]:
        if 13 in items:
            raise ValueError("unlucky")
        return [len(items)] * len(items)

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=WITHIN_S)
    async def short(self, items: list[int]) -> list[int]:
        return items[1:]

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=WITHIN_S)
    async def streams(self, items: list[int]) -> AsyncGenerator[list[int]]:
        for number in range(3):
            yield [item + number for item in items]

    async def __call__(self, request: Request) -> int:
        return await self.sizes(int(request.query_params["n"]))

    async def one(self, number: int) -> int:
        return await self.sizes(number)

    async def one_short(self, number: int) -> int:
        return await self.short(number)

    async def one_stream(self, number: int) -> AsyncGenerator[int]:
        async for value in self.streams(number):  # pyright: ignore[reportGeneralTypeIssues]
            yield value


@serve.deployment(num_replicas=2)
class Models:
    """Holds two models; remembers what it loaded and dropped."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> str:
        self.loaded.append(model_id)
        return f"model {model_id}"

    async def __call__(self) -> list[Any]:
        model = await self.load(serve.get_multiplexed_model_id())
        return [model, len(self.loaded), serve.get_replica_context().replica_tag]

    async def own_id(self) -> str:
        return serve.get_multiplexed_model_id()


def result(response: Any) -> Any:
    return response.result(timeout_s=WITHIN_S)


def run_gated(world: World, worker: Deployment[Any]) -> tuple[DeploymentHandle[Any], DeploymentHandle[Any]]:
    handle = world.run(worker.bind(Gate.options(max_ongoing_requests=100).bind()))
    return handle, serve.get_deployment_handle("Gate", "app")


def test_no_more_than_the_slots_run(world: World) -> None:
    handle, gate = run_gated(world, Worker.options(max_ongoing_requests=3))
    responses = [handle.remote() for _ in range(6)]
    result(gate.open.remote())
    assert [result(response) for response in responses] == ["done"] * 6
    assert result(handle.counts.remote()) == (0, 3)


def test_def_methods_have_a_thread_per_slot(world: World) -> None:
    handle = world.run(InThreads.bind())
    assert sorted(result(response) for response in [handle.meet.remote() for _ in range(4)]) == [0, 1, 2, 3]


def test_a_full_queue_refuses_handles_at_once(world: World) -> None:
    handle, gate = run_gated(world, Worker.options(max_ongoing_requests=1, max_queued_requests=1))
    running = handle.remote()
    passing = soon("it runs and one waits", lambda: fill(handle))
    with pytest.raises(BackPressureError) as refused:
        result(handle.remote())
    assert (refused.value.status_code, refused.value.retry_after_s) == (503, None)
    assert str(refused.value) == (
        "Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1)."
    )
    result(gate.open.remote())
    assert [result(each) for each in (running, *passing)] == ["done"] * (1 + len(passing))


def fill(handle: DeploymentHandle[Any]) -> list[Any]:
    """Send until one is refused; what was not."""
    passing = []
    for _ in range(50):
        response = handle.remote()
        try:
            response.result(timeout_s=0.2)
        except BackPressureError:
            return passing
        except TimeoutError:
            passing.append(response)
    return []


def test_http_clients_hear_of_a_full_queue(world: World) -> None:
    options = {"status_code": 429, "retry_after_s": 2.5}
    worker = Worker.options(max_ongoing_requests=1, max_queued_requests=1, backpressure_config=options)
    _, gate = run_gated(world, worker)
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(world.get, "/") for _ in range(8)]
        soon("six of eight are refused", lambda: sum(answer.done() for answer in answers) == 6)
        result(gate.open.remote())
        statuses = sorted(answer.result(WITHIN_S).status_code for answer in answers)
    assert statuses == [200, 200] + [429] * 6
    refused = next(answer.result() for answer in answers if answer.result().status_code == 429)
    assert refused.headers["retry-after"] == "3"
    assert refused.text == ("Request dropped due to backpressure (num_queued_requests=1, max_queued_requests=1).")


def test_batches_of_handle_calls_and_of_http_requests(world: World) -> None:
    handle = world.run(Batches.bind())
    assert [result(each) for each in [handle.one.remote(number) for number in range(4)]] == [4] * 4
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(world.get, [f"/?n={number}" for number in range(4)]))
    assert [answer.json() for answer in answers] == [4] * 4


def test_what_fails_in_a_batch_fails_all_of_it(world: World) -> None:
    handle = world.run(Batches.bind())
    for response in [handle.one.remote(number) for number in (1, 2, 3, 13)]:
        with pytest.raises(ValueError, match="unlucky"):
            result(response)
    for response in [handle.one_short.remote(number) for number in range(2)]:
        with pytest.raises(Exception, match=r"doesn't preserve batch size\. The input list has length 2"):
            result(response)


def test_batches_that_stream(world: World) -> None:
    handle = world.run(Batches.bind()).options(stream=True)
    streams = [handle.one_stream.remote(number) for number in (10, 20)]
    assert [list(stream) for stream in streams] == [[10, 11, 12], [20, 21, 22]]


def test_models_stay_where_they_are(world: World) -> None:
    handle = world.run(Models.bind())
    first: dict[str, str] = {}
    for round_number in range(3):
        for model in ("a", "b"):
            name, loaded, replica = result(handle.options(multiplexed_model_id=model).remote())
            assert name == f"model {model}"
            assert first.setdefault(model, replica) == replica, round_number
            assert loaded <= 2
    headers = {"serve_multiplexed_model_id": "a"}
    assert world.get("/", headers=headers).json() == ["model a", *world.get("/", headers=headers).json()[1:]]
    assert world.get("/", headers=headers).json()[2] == first["a"]
    assert result(handle.own_id.remote()) == ""


def test_a_model_too_many_is_unloaded(world: World) -> None:
    handle = world.run(Models.options(num_replicas=1).bind())
    loaded = [result(handle.options(multiplexed_model_id=model).remote())[1] for model in "abcab"]
    assert loaded == [1, 2, 3, 4, 5]  # each was the least recently used when the third came
    assert result(handle.options(multiplexed_model_id="b").remote())[1] == 5
