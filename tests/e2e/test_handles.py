"""Calling deployments through handles; the test is the driver."""

from __future__ import annotations

import asyncio
import pickle  # noqa: TID251 - users do
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.waiting import eventually
from salver import serve
from salver.serve.exceptions import (
    DeploymentUnavailableError,
    RayServeException,
    RemoteException,
    SerializationError,
)
from salver.serve.handle import DeploymentHandle

pytestmark = pytest.mark.usefixtures("instance_url")

WITHIN_S = 30.0


class OutOfStock(Exception):
    """A user's exception with state of its own."""

    def __init__(self, item: str, wanted: int) -> None:
        super().__init__(item, wanted)
        self.item = item
        self.wanted = wanted


class CannotTravel(Exception):
    """A user's exception that no pickle brings back: its constructor takes what ``args`` does not have."""

    def __init__(self, item: str, wanted: int) -> None:
        super().__init__(f"{wanted} x {item}")


class Locked(Exception):
    """A user's exception that holds something that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


@serve.deployment(max_ongoing_requests=20)
class Desk:
    """Every kind of method that a test needs."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.released = threading.Event()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [args, kwargs]

    def add(self, x: int, y: int = 0) -> int:
        return x + y

    async def add_async(self, x: int, y: int = 0) -> int:
        return x + y

    def same(self, value: Any) -> Any:
        return value

    def note(self, text: str) -> None:
        self.notes.append(text)

    def all_notes(self) -> list[str]:
        return self.notes

    def wait(self) -> str:
        assert self.released.wait(WITHIN_S)
        return "released"

    def release(self) -> None:
        self.released.set()

    def fail(self, kind: str) -> None:
        if kind == "own":
            raise OutOfStock("soup", 3)
        if kind == "builtin":
            raise ValueError("no soup")
        if kind == "cannot travel":
            raise CannotTravel("soup", 3)
        if kind == "locked":
            raise Locked("no soup")
        if kind == "exit":
            sys.exit("no soup")
        if kind == "stop":
            next(iter(()))

    def fail_with_class_of(self, folder: str) -> None:
        sys.path.append(folder)
        import only_in_the_replica

        raise only_in_the_replica.Unheard("no soup")

    def generate(self) -> Any:
        yield 1

    async def generate_async(self) -> Any:
        yield 1

    def lock(self) -> dict[str, Any]:
        return {"a": 1, "lock": threading.Lock()}

    def double(self, array: np.ndarray) -> np.ndarray:
        if not array.flags.writeable:  # in shared memory
            return array * 2
        array *= 2
        return array


@serve.deployment
class Clerk:
    """Calls the desk in every way that a replica can."""

    def __init__(self, desk: DeploymentHandle[Any]) -> None:
        self.desk = desk

    async def by_await(self, x: int) -> int:
        return await self.desk.add.remote(x, 1)

    def by_result(self, x: int) -> int:
        return self.desk.add.remote(x, 1).result()

    def by_threads(self, x: int) -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda n: self.desk.add.remote(x, n).result(), range(8)))

    async def by_thread_off_the_loop(self, x: int) -> int:
        return await asyncio.to_thread(lambda: self.desk.add.remote(x, 1).result())

    async def by_result_on_the_loop(self) -> int:
        return self.desk.add.remote(1, 1).result()

    async def by_lookup(self, x: int) -> int:
        return await serve.get_deployment_handle("Desk").add.remote(x, 1)

    async def by_argument(self, given: DeploymentHandle[Any], x: int) -> int:
        return await given.add.remote(x, 1)

    async def passing_responses(self, x: int) -> int:
        return await self.desk.add.remote(self.desk.add.remote(x, 1), y=self.desk.add_async.remote(x, 2))


@pytest.fixture
def desk(instance_url: str) -> DeploymentHandle[Any]:
    return serve.run(Desk.bind())


# --- calling ----------------------------------------------------------------------------------------------


def test_arguments_arrive_as_given(desk: DeploymentHandle[Any]) -> None:
    assert desk.remote(1, "a", key=[2]).result() == [(1, "a"), {"key": [2]}]
    assert desk.add.remote(1, y=2).result() == 3
    assert desk.add_async.remote(1, y=2).result() == 3
    assert desk.options(method_name="add").remote(3, 4).result() == 7


def test_a_call_starts_although_nobody_awaits_it(desk: DeploymentHandle[Any]) -> None:
    desk.note.remote("written")
    eventually("the note is there", lambda: desk.all_notes.remote().result() == ["written"])


def test_remote_returns_while_the_call_still_runs(desk: DeploymentHandle[Any]) -> None:
    response = desk.wait.remote()
    assert "pending" in repr(response)
    desk.release.remote().result(timeout_s=WITHIN_S)
    assert response.result(timeout_s=WITHIN_S) == "released"
    assert "done" in repr(response)


def test_a_timeout_of_the_caller_does_not_end_the_call(desk: DeploymentHandle[Any]) -> None:
    response = desk.wait.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.05)
    desk.release.remote().result(timeout_s=WITHIN_S)
    assert response.result(timeout_s=WITHIN_S) == "released"


def test_an_answer_can_be_had_again(desk: DeploymentHandle[Any]) -> None:
    response = desk.add.remote(1, 2)

    async def await_twice() -> tuple[int, int]:
        return await response, await response

    assert response.result() == response.result() == 3
    assert asyncio.run(await_twice()) == (3, 3)


def test_result_in_an_event_loop_is_refused(desk: DeploymentHandle[Any]) -> None:
    async def block_the_loop() -> None:
        desk.add.remote(1, 2).result()

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(block_the_loop())
    assert str(caught.value) == (
        "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
    )


def test_a_handle_is_used_by_many_threads_and_loops_at_once(desk: DeploymentHandle[Any]) -> None:
    async def gather(start: int) -> int:
        return sum(await asyncio.gather(*(desk.add_async.remote(start, n) for n in range(50))))

    def in_a_loop(start: int) -> int:
        return asyncio.run(gather(start))

    def in_a_thread(start: int) -> int:
        return sum(desk.add.remote(start, n).result(timeout_s=WITHIN_S) for n in range(50))

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(work, start) for start in range(4) for work in (in_a_loop, in_a_thread)]
        sums = [job.result(WITHIN_S) for job in jobs]
    assert sums == [50 * start + sum(range(50)) for start in range(4) for _ in range(2)]


# --- responses as arguments -------------------------------------------------------------------------------


def test_responses_are_passed_on_without_being_awaited(desk: DeploymentHandle[Any]) -> None:
    three, seven = desk.add.remote(1, 2), desk.add_async.remote(3, 4)
    assert desk.add.remote(three, y=seven).result() == 10
    assert desk.add.remote(three, three).result() == 6


def test_responses_inside_containers_are_resolved_too(desk: DeploymentHandle[Any]) -> None:
    def three() -> Any:
        return desk.add.remote(1, 2)

    nested = [three(), (three(), "text"), {"key": {"deeper": [three()]}}]
    assert desk.same.remote(nested).result() == [3, (3, "text"), {"key": {"deeper": [3]}}]


def test_a_response_that_fails_fails_the_call_it_is_an_argument_of(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(OutOfStock):
        desk.note.remote(desk.fail.remote("own")).result()
    assert desk.all_notes.remote().result() == []


def test_a_response_does_not_travel_otherwise(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(TypeError, match="await it first"):
        pickle.dumps(desk.add.remote(1, 2))


# --- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("own", OutOfStock), ("builtin", ValueError)])
def test_an_exception_comes_back_as_the_users_own(
    desk: DeploymentHandle[Any], kind: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        desk.fail.remote(kind).result()
    if isinstance(caught.value, OutOfStock):
        assert (caught.value.item, caught.value.wanted) == ("soup", 3)
    remote = str(caught.value.__cause__)
    assert "in fail" in remote
    assert "test_handles.py" in remote
    assert "salver/data" not in remote, "the user's frames only"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("cannot travel", "CannotTravel: 3 x soup"),
        ("locked", "Locked: no soup"),
        ("exit", "SystemExit: no soup"),
    ],
)
def test_an_exception_that_cannot_come_back_is_told_in_words(
    desk: DeploymentHandle[Any], kind: str, text: str
) -> None:
    with pytest.raises(RemoteException) as caught:
        desk.fail.remote(kind).result()
    assert str(caught.value) == text
    assert "in fail" in str(caught.value.__cause__)
    assert desk.add.remote(1, 2).result() == 3, "the replica lives"


def test_a_bare_next_fails_like_in_any_coroutine(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(RuntimeError, match="the method raised StopIteration"):
        desk.fail.remote("stop").result(timeout_s=WITHIN_S)
    assert desk.add.remote(1, 2).result(timeout_s=WITHIN_S) == 3


def test_an_exception_whose_class_is_not_here_is_told_in_words(desk: DeploymentHandle[Any], tmp_path: Path) -> None:
    (tmp_path / "only_in_the_replica.py").write_text("class Unheard(Exception): pass")
    with pytest.raises(RemoteException, match=r"^Unheard: no soup$"):
        desk.fail_with_class_of.remote(str(tmp_path)).result()


def test_an_unknown_method_is_answered_with_the_known_ones(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(RayServeException) as caught:
        desk.addd.remote(1).result()
    text = str(caught.value)
    assert text.startswith(
        "Tried to call a method 'addd' that does not exist. Available methods: ['__call__', 'add', "
    )


@pytest.mark.parametrize("method", ["generate", "generate_async"])
def test_a_generator_needs_stream(desk: DeploymentHandle[Any], method: str) -> None:
    with pytest.raises(TypeError) as caught:
        desk.options(method_name=method).remote().result()
    assert str(caught.value) == (
        f"Method '{method}' returned a generator. You must use `handle.options(stream=True)` "
        "to call generators on a deployment."
    )


def test_wrong_arguments_are_a_type_error_as_in_any_call(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'x'"):
        desk.add.remote().result()


def test_an_argument_that_cannot_be_pickled_is_named(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(
        SerializationError, match=r"^Desk\.same: argument 1\['model'\]\[0\] cannot be pickled: _thread.lock"
    ):
        desk.same.remote({"model": [threading.Lock()]})
    with pytest.raises(SerializationError, match=r"^Desk\.__call__: argument 'key' cannot be pickled: _thread.lock"):
        desk.remote(1, key=threading.Lock())


def test_a_result_that_cannot_be_pickled_is_named(desk: DeploymentHandle[Any]) -> None:
    with pytest.raises(
        SerializationError, match=r"^the result of Desk\.lock\['lock'\] cannot be pickled: _thread.lock"
    ):
        desk.lock.remote().result()


def test_a_call_of_a_deleted_application_fails_at_once(desk: DeploymentHandle[Any]) -> None:
    serve.delete("default")
    with pytest.raises(
        DeploymentUnavailableError, match=r"default#Desk is unavailable\. It does not exist, or was deleted\."
    ):
        desk.add.remote(1, 2).result(timeout_s=WITHIN_S)


# --- large values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "is_shared"), [(64 * 1024, False), (10 * 1024 * 1024, True)])
def test_arrays_travel_whole_and_large_ones_arrive_read_only(
    desk: DeploymentHandle[Any], size: int, is_shared: bool
) -> None:
    array = np.arange(size // 8, dtype=np.int64)
    doubled = desk.double.remote(array).result(timeout_s=WITHIN_S)
    assert np.array_equal(doubled, array * 2)
    assert doubled.flags.writeable is not is_shared


# --- handles in handles' arguments, and inside replicas -----------------------------------------------------


@pytest.fixture
def clerk(instance_url: str) -> DeploymentHandle[Any]:
    return serve.run(Clerk.bind(Desk.bind()))


def test_replicas_call_each_other(clerk: DeploymentHandle[Any]) -> None:
    for method in ("by_await", "by_result", "by_thread_off_the_loop", "by_lookup"):
        assert clerk.options(method_name=method).remote(1).result(timeout_s=WITHIN_S) == 2, method
    assert clerk.by_threads.remote(1).result(timeout_s=WITHIN_S) == list(range(1, 9))
    assert clerk.passing_responses.remote(1).result(timeout_s=WITHIN_S) == 5
    with pytest.raises(RuntimeError, match="Use `await response` instead"):
        clerk.by_result_on_the_loop.remote().result(timeout_s=WITHIN_S)


def test_a_handle_is_an_argument_like_any_other(clerk: DeploymentHandle[Any]) -> None:
    desk = serve.get_deployment_handle("Desk", "default")
    assert clerk.by_argument.remote(desk, 1).result(timeout_s=WITHIN_S) == 2
    copied = pickle.loads(pickle.dumps(desk.add))
    assert repr(copied) == "DeploymentHandle(deployment='Desk', app='default', method='add')"
    assert copied.remote(1, 2).result() == 3
