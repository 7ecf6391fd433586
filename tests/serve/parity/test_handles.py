"""Handle calls: what is called, what travels, what fails and how, streams, cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

from salver import serve
from salver.serve.context import get_replica_context
from salver.serve.exceptions import RayServeException, RequestCancelledError, SerializationError
from salver.serve.handle import DeploymentHandle

from .world import WITHIN_S, World, soon

mark: ContextVar[str] = ContextVar("mark", default="unset")


class Broken(ValueError):
    """The user's own, with a constructor of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(f"broken with code {code}")
        self.code = code


@serve.deployment(max_ongoing_requests=10)
class Worker:
    """What the tests call."""

    def __init__(self) -> None:
        self.kept: Any = None
        self.waiting = 0
        self.cancelled: list[str] = []

    def __call__(self, value: Any = None) -> Any:
        return value

    async def keep(self, value: Any) -> Any:
        self.kept = value
        return self.kept

    async def change(self) -> None:
        self.kept.append("changed")

    async def given(self) -> Any:
        return self.kept

    async def add(self, a: int, *, b: int = 1) -> int:
        return a + b

    def fill(self, array: Any) -> float:
        return float(array.sum())

    def ones(self, size: int) -> Any:
        return np.ones(size, dtype=np.uint8)

    async def fail(self, code: int) -> None:
        raise Broken(code)

    async def numbers(self, count: int, fail_after: int = -1) -> AsyncGenerator[int]:
        for number in range(count):
            if number == fail_after:
                raise Broken(number)
            yield number

    def letters(self) -> Generator[str]:
        yield from "abc"

    async def endless(self) -> AsyncGenerator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0)
        finally:
            self.cancelled.append("endless")

    async def wait(self) -> None:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("wait")
            raise

    async def how_many_wait(self) -> int:
        return self.waiting

    async def all_cancelled(self) -> list[str]:
        return self.cancelled

    def unpicklable(self) -> Any:
        return threading.Lock()

    async def seen_mark(self) -> tuple[str, str]:
        before = mark.get()
        mark.set("set by a call")
        in_thread = await asyncio.to_thread(mark.get)
        return before, in_thread

    def seen_mark_in_def(self) -> str:
        return mark.get()

    def who(self) -> tuple[str, str]:
        context = get_replica_context()
        return context.app_name, context.deployment


@serve.deployment(max_ongoing_requests=10)
class Front:
    """Calls the worker."""

    def __init__(self, worker: DeploymentHandle[Any]) -> None:
        self.worker = worker

    async def chain(self) -> int:
        first = self.worker.add.remote(1)
        second = self.worker.add.remote(first, b=self.worker.add.remote(2))
        return await self.worker.add.remote(second)

    async def stream(self) -> AsyncGenerator[int]:
        async for number in self.worker.options(stream=True).numbers.remote(3):
            yield 10 * number

    async def wait(self) -> None:
        await self.worker.wait.remote()

    def block(self) -> int:
        return self.worker.add.remote(5).result(timeout_s=WITHIN_S)

    async def marks(self) -> list[Any]:
        mark.set("of the caller")
        return [await self.worker.seen_mark.remote(), await self.worker.seen_mark_in_def.remote()]

    async def asks_where_it_is(self) -> list[str]:
        worker: DeploymentHandle[Any] = serve.get_deployment_handle("Worker")
        names = sorted(serve.status().applications["app"].deployments)
        return [*names, *(await worker.who.remote())]


@serve.deployment
def double(value: int, *, plus: int = 0) -> int:
    return 2 * value + plus


@pytest.fixture
def worker(world: World) -> DeploymentHandle[Any]:
    return world.run(Worker.bind(), route_prefix=None)


@pytest.fixture
def front(world: World) -> DeploymentHandle[Any]:
    return world.run(Front.bind(Worker.bind()), route_prefix=None)


def result(response: Any) -> Any:
    return response.result(timeout_s=WITHIN_S)


def test_methods_arguments_and_functions(world: World, worker: DeploymentHandle[Any]) -> None:
    assert result(worker.remote("x")) == "x"
    assert result(worker.add.remote(1, b=5)) == 6
    assert result(worker.options(method_name="add").remote(1)) == 2
    assert result(world.run(double.bind(), "other", None).remote(4, plus=1)) == 9


def test_what_travels_is_a_copy(worker: DeploymentHandle[Any]) -> None:
    given = ["given"]
    got = result(worker.keep.remote(given))
    assert got == given
    assert got is not given
    result(worker.change.remote())
    got.append("changed here")
    assert given == ["given"]
    assert result(worker.given.remote()) == ["given", "changed"]


@pytest.mark.parametrize("size", [1000, 500_000, 20_000_000])
def test_arrays_are_copied_too_however_large(worker: DeploymentHandle[Any], size: int) -> None:
    array = np.zeros(size, dtype=np.uint8)
    returned = result(worker.keep.remote(array))
    array[:] = 1
    assert (returned.sum(), result(worker.given.remote()).sum()) == (0, 0)
    assert not np.shares_memory(returned, array)
    assert result(worker.fill.remote(array)) == size
    ones = result(worker.ones.remote(size))
    assert ones.sum() == size
    small = size < 1024 * 1024
    assert (ones.flags.writeable, returned.flags.writeable) == (small, small)


def test_errors_are_the_users_own(worker: DeploymentHandle[Any]) -> None:
    with pytest.raises(Broken, match="broken with code 7") as raised:
        result(worker.fail.remote(7))
    assert (type(raised.value), raised.value.code) == (Broken, 7)
    assert "in fail" in str(raised.value.__cause__)
    with pytest.raises(RayServeException, match="Tried to call a method 'nowhere' that does not exist") as missing:
        result(worker.nowhere.remote())
    assert "'add'" in str(missing.value)
    with pytest.raises(TypeError):
        result(worker.add.remote())
    with pytest.raises(SerializationError, match=r"Worker\.unpicklable"):
        result(worker.unpicklable.remote())
    with pytest.raises(SerializationError, match="lock"):
        worker.remote(threading.Lock())


def test_generators_need_stream_and_nothing_else_may_have_it(worker: DeploymentHandle[Any]) -> None:
    with pytest.raises(TypeError, match=r"Method 'numbers' returned a generator. You must use `handle.options"):
        result(worker.numbers.remote(3))
    with pytest.raises(TypeError, match="it did not return a generator"):
        list(worker.options(stream=True).add.remote(1))


def test_streams_and_the_item_that_fails(worker: DeploymentHandle[Any]) -> None:
    streaming = worker.options(stream=True)
    assert list(streaming.numbers.remote(1000)) == list(range(1000))
    assert list(streaming.letters.remote()) == ["a", "b", "c"]
    received: list[int] = []
    with pytest.raises(Broken, match="code 2"):
        received.extend(streaming.numbers.remote(5, 2))
    assert received == [0, 1]

    async def asynchronously() -> list[int]:
        return [number async for number in streaming.numbers.remote(4)]

    assert asyncio.run(asynchronously()) == [0, 1, 2, 3]


def test_a_stream_that_is_cancelled(worker: DeploymentHandle[Any]) -> None:
    numbers = worker.options(stream=True).endless.remote()
    assert [next(numbers), next(numbers)] == [0, 1]
    numbers.cancel()
    soon("the generator is closed", lambda: result(worker.all_cancelled.remote()) == ["endless"])


def test_cancelling_reaches_what_was_called(front: DeploymentHandle[Any]) -> None:
    worker: DeploymentHandle[Any] = serve.get_deployment_handle("Worker", "app")
    response = front.wait.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.2)  # and it goes on
    soon("it has come to the worker", lambda: result(worker.how_many_wait.remote()) == 1)
    assert result(worker.all_cancelled.remote()) == []
    response.cancel()
    with pytest.raises(RequestCancelledError):
        result(response)
    soon("the worker is cancelled", lambda: result(worker.all_cancelled.remote()) == ["wait"])


def test_awaiting(worker: DeploymentHandle[Any]) -> None:
    async def test() -> None:
        response = worker.add.remote(1)
        assert [await response, await response] == [2, 2]
        with pytest.raises(RuntimeError, match=r"Sync methods should not be called from within an `asyncio`"):
            response.result()
        waiting = asyncio.create_task(hold(worker.wait.remote()))
        while not await worker.how_many_wait.remote():
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(test())
    soon("the call is cancelled", lambda: result(worker.all_cancelled.remote()) == ["wait"])


async def hold(response: Any) -> Any:
    return await response


def test_responses_as_arguments_and_calls_between_deployments(front: DeploymentHandle[Any]) -> None:
    assert result(front.chain.remote()) == 6
    assert result(front.block.remote()) == 6
    assert list(front.options(stream=True).stream.remote()) == [0, 10, 20]
    stream = front.options(stream=True).stream.remote()
    with pytest.raises(RuntimeError, match="Streaming deployment handle results cannot be passed"):
        front.remote(stream)
    stream.cancel()


def test_context_variables_belong_to_one_request(front: DeploymentHandle[Any]) -> None:
    mark.set("of the test")
    for _ in range(2):
        assert result(front.marks.remote()) == [("unset", "set by a call"), "unset"]


def test_code_in_a_replica_may_ask_for_the_instance(front: DeploymentHandle[Any]) -> None:
    assert result(front.asks_where_it_is.remote()) == ["Front", "Worker", "app", "Worker"]
