"""Cancelling calls, directly and through what called them, and deadlines that reach every call of a request."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import Context
from typing import Any

import pytest

from e2e.handle_scene import WITHIN_S, Run, run
from harness.waiting import eventually
from salver import serve
from salver.data.context import RequestContext, request_context
from salver.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RemoteException,
    RequestCancelledError,
    RequestTimeoutError,
)
from salver.serve.handle import DeploymentHandle

__all__ = ["run"]

LONG_S = 600.0


@serve.deployment(max_ongoing_requests=10)
class Watch:
    """Knows what became of the calls of others."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def note(self, what: str) -> None:
        self.seen.append(what)

    async def all(self) -> list[str]:
        return self.seen


@serve.deployment(max_ongoing_requests=4)
class Leaf:
    """Works for as long as the test wants."""

    def __init__(self, watch: DeploymentHandle[Any]) -> None:
        self.watch = watch

    async def work(self, name: str) -> None:
        try:
            await self.note(f"{name} began")  # cancelled, it may be, before it hears that this has been noted
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.note(f"{name} cancelled")
            raise

    async def note(self, what: str) -> None:
        """Whatever became of the request that this is about: in a context of its own, without its deadline."""

        async def call() -> None:
            await self.watch.note.remote(what)

        await asyncio.create_task(call(), context=Context())

    async def items(self, name: str) -> Any:
        yield 1
        await self.work(name)

    async def cancel_yourself(self) -> None:
        raise asyncio.CancelledError("by my own hand")

    async def add(self, x: int, y: int) -> int:
        return x + y

    async def remaining_s(self) -> float | None:
        deadline = request_context.get().deadline
        return None if deadline is None else deadline - time.monotonic()


@serve.deployment(max_ongoing_requests=4)
class Branch:
    """Calls the leaf in every way that user code does."""

    def __init__(self, leaf: DeploymentHandle[Any], watch: DeploymentHandle[Any]) -> None:
        self.leaf = leaf
        self.watch = watch

    async def by_await(self, name: str) -> None:
        await self.leaf.work.remote(name)

    async def by_gather(self, *names: str) -> None:
        await asyncio.gather(*(self.leaf.work.remote(name) for name in names))

    async def not_awaited(self, name: str) -> None:
        self.leaf.work.remote(name)
        await asyncio.Event().wait()

    async def in_a_task_of_its_own(self, name: str) -> None:
        task = asyncio.create_task(self.by_await(name))
        task.add_done_callback(lambda done: done.exception())
        await asyncio.wait([task])

    async def by_stream(self, name: str) -> None:
        async for _ in self.leaf.items.options(stream=True).remote(name):
            pass

    def by_result(self, name: str) -> None:
        try:
            self.leaf.work.remote(name).result()
        except RequestCancelledError:
            self.watch.note.remote("result() was told").result()
            raise

    async def and_leave(self, name: str) -> str:
        self.leaf.work.remote(name)
        return "left"

    async def remaining_s(self) -> float | None:
        return await self.leaf.remaining_s.remote()

    async def fail_with(self, kind: str) -> None:
        if kind == "backpressure":
            raise BackPressureError(3, 2, 429, 1.5)
        if kind == "unavailable":
            raise DeploymentUnavailableError("shop#till", "It was deleted.")
        if kind == "timeout":
            raise RequestTimeoutError("r-1", 2.0)
        if kind == "cancelled":
            response = self.leaf.work.remote("own")
            response.cancel()
            await response


class Scene:
    """The three deployments, and what the leaf has noted."""

    def __init__(self, run: Run) -> None:
        watch = Watch.bind()
        leaf = Leaf.bind(watch)
        self.branch = run(Branch.bind(leaf, watch))
        self.leaf = serve.get_deployment_handle("Leaf", "default")
        self.watch = serve.get_deployment_handle("Watch", "default")

    def seen(self, *expected: str) -> None:
        """Returns when exactly this has been noted, in any order."""
        eventually(
            f"noted: {expected}",
            lambda: sorted(self.watch.all.remote().result(timeout_s=WITHIN_S)) == sorted(expected),
            WITHIN_S,
        )


@pytest.fixture
def scene(run: Run) -> Scene:
    return Scene(run)


# --- one call -----------------------------------------------------------------------------------------------


def test_a_running_call_is_cancelled(scene: Scene) -> None:
    response = scene.leaf.work.remote("a")
    scene.seen("a began")
    assert not response.cancelled()
    response.cancel()
    assert response.cancelled()
    for _ in range(2):
        with pytest.raises(RequestCancelledError, match=response.request_id):
            response.result(timeout_s=WITHIN_S)
    scene.seen("a began", "a cancelled")


def test_a_call_that_waits_for_a_replica_never_runs(scene: Scene) -> None:
    running = [scene.leaf.work.remote(str(number)) for number in range(4)]
    scene.seen("0 began", "1 began", "2 began", "3 began")
    waiting = scene.leaf.work.remote("late")
    waiting.cancel()
    with pytest.raises(RequestCancelledError):
        waiting.result(timeout_s=WITHIN_S)
    for response in running:
        response.cancel()
    assert scene.leaf.add.remote(1, 2).result(timeout_s=WITHIN_S) == 3
    assert "late began" not in scene.watch.all.remote().result(timeout_s=WITHIN_S)


def test_a_call_that_waits_for_its_arguments_never_runs(scene: Scene) -> None:
    argument = scene.leaf.work.remote("a")
    scene.seen("a began")
    response = scene.leaf.work.remote(argument)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=WITHIN_S)
    assert not argument.cancelled(), "others may have use for it"
    argument.cancel()
    scene.seen("a began", "a cancelled")


def test_an_answer_that_was_faster_stays(scene: Scene) -> None:
    response = scene.leaf.add.remote(1, 2)
    assert response.result(timeout_s=WITHIN_S) == 3
    response.cancel()
    assert response.result() == 3


def test_a_cancelled_task_cancels_the_call_that_it_awaits(scene: Scene) -> None:
    async def await_it() -> None:
        response = scene.leaf.work.remote("a")
        task = asyncio.ensure_future(response)
        await asyncio.to_thread(scene.seen, "a began")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RequestCancelledError):
            await response

    asyncio.run(await_it())
    scene.seen("a began", "a cancelled")


def test_one_of_two_cancelled_tasks_takes_the_answer_from_nobody(scene: Scene) -> None:
    async def await_both() -> None:
        response = scene.leaf.work.remote("a")
        first, second = asyncio.ensure_future(response), asyncio.ensure_future(response)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await asyncio.to_thread(scene.seen, "a began")
        assert not second.done()
        assert not response.cancelled()
        second.cancel()
        await asyncio.wait([second])

    asyncio.run(await_both())
    scene.seen("a began", "a cancelled")


def test_shielded_the_call_goes_on(scene: Scene) -> None:
    async def await_it() -> None:
        response = scene.leaf.work.remote("a")
        waiting = asyncio.ensure_future(response)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        assert not response.cancelled()
        response.cancel()
        with pytest.raises(RequestCancelledError):
            await waiting

    asyncio.run(await_it())


def test_code_that_raises_cancelled_error_itself_kills_nothing(scene: Scene) -> None:
    with pytest.raises(RequestCancelledError) as caught:
        scene.leaf.cancel_yourself.remote().result(timeout_s=WITHIN_S)
    assert "by my own hand" in str(caught.value.__cause__)
    assert scene.leaf.add.remote(1, 2).result(timeout_s=WITHIN_S) == 3


# --- what it has called -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["by_await", "not_awaited", "in_a_task_of_its_own", "by_stream"])
def test_cancelling_reaches_what_was_called(scene: Scene, method: str) -> None:
    response = scene.branch.options(method_name=method).remote("a")
    scene.seen("a began")
    response.cancel()
    scene.seen("a began", "a cancelled")
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=WITHIN_S)


def test_cancelling_reaches_everything_that_was_called(scene: Scene) -> None:
    response = scene.branch.by_gather.remote("a", "b", "c")
    scene.seen("a began", "b began", "c began")
    response.cancel()
    scene.seen(*(f"{name} {what}" for name in "abc" for what in ("began", "cancelled")))


def test_a_thread_that_waits_in_a_cancelled_request_is_told(scene: Scene) -> None:
    response = scene.branch.by_result.remote("a")
    scene.seen("a began")
    response.cancel()
    scene.seen("a began", "a cancelled", "result() was told")


def test_what_a_request_leaves_behind_when_it_has_answered_goes_on(scene: Scene) -> None:
    response = scene.branch.and_leave.remote("a")
    assert response.result(timeout_s=WITHIN_S) == "left"
    response.cancel()
    scene.seen("a began")


# --- deadlines ----------------------------------------------------------------------------------------------


def within(left_s: float) -> None:
    """From now on the code of this context works for a request that has this long."""
    request_context.set(RequestContext(request_id="r-1", deadline=time.monotonic() + left_s))


def in_context(test: Any) -> None:
    """Run a test's code in a context of its own."""
    failure: list[BaseException] = []

    def work() -> None:
        try:
            test()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def test_what_remains_is_inherited_by_every_call(scene: Scene) -> None:
    assert scene.branch.remaining_s.remote().result(timeout_s=WITHIN_S) is None

    def ask() -> None:
        within(LONG_S)
        assert LONG_S - WITHIN_S < scene.branch.remaining_s.remote().result() <= LONG_S

    in_context(ask)


@pytest.mark.parametrize("method", ["by_await", "not_awaited", "by_stream", "by_result"])
def test_at_the_deadline_everything_is_cancelled(scene: Scene, method: str) -> None:
    def call() -> None:
        scene.branch.remaining_s.remote().result(timeout_s=WITHIN_S)  # all are connected: the call begins in time
        within(1.0)
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError) as caught:
            scene.branch.options(method_name=method).remote("a").result(timeout_s=WITHIN_S)
        assert time.monotonic() - began >= 0.99
        assert caught.value.request_id == "r-1"
        assert isinstance(caught.value, TimeoutError)

    in_context(call)
    eventually(
        "the leaf was cancelled",
        lambda: "a cancelled" in scene.watch.all.remote().result(timeout_s=WITHIN_S),
        WITHIN_S,
    )


def test_a_stream_has_the_deadline_too(scene: Scene) -> None:
    def call() -> None:
        scene.leaf.remaining_s.remote().result(timeout_s=WITHIN_S)
        within(2.0)
        stream = scene.leaf.items.options(stream=True).remote("a")
        assert next(stream) == 1
        with pytest.raises(RequestTimeoutError):
            next(stream)

    in_context(call)
    scene.seen("a began", "a cancelled")


def test_a_call_leaves_the_queue_at_its_deadline(scene: Scene) -> None:
    running = [scene.leaf.work.remote(str(number)) for number in range(4)]
    scene.seen("0 began", "1 began", "2 began", "3 began")

    def call() -> None:
        within(0.3)
        with pytest.raises(RequestTimeoutError, match=r"^Request r-1 timed out after 0\.[23]"):
            scene.leaf.work.remote("late").result(timeout_s=WITHIN_S)

    in_context(call)
    for response in running:
        response.cancel()
    assert scene.leaf.add.remote(1, 2).result(timeout_s=WITHIN_S) == 3
    assert "late began" not in scene.watch.all.remote().result(timeout_s=WITHIN_S)


def test_after_the_deadline_nothing_is_sent(scene: Scene) -> None:
    def call() -> None:
        within(-1.0)
        with pytest.raises(RequestTimeoutError, match=r"^Request r-1 timed out\.$"):
            scene.watch.note.remote("too late").result(timeout_s=WITHIN_S)

    in_context(call)
    scene.seen()


# --- our own exceptions from further on ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("backpressure", BackPressureError),
        ("unavailable", DeploymentUnavailableError),
        ("timeout", RequestTimeoutError),
        ("cancelled", RequestCancelledError),
    ],
)
def test_our_exceptions_pass_through_a_callee_as_themselves(
    scene: Scene, kind: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        scene.branch.fail_with.remote(kind).result(timeout_s=WITHIN_S)
    assert not isinstance(caught.value, RemoteException)
    assert "in fail_with" in str(caught.value.__cause__)
    if isinstance(caught.value, BackPressureError):
        assert (caught.value.status_code, caught.value.retry_after_s) == (429, 1.5)
    if isinstance(caught.value, RequestTimeoutError):
        assert str(caught.value) == "Request r-1 timed out after 2s."
