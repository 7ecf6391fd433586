"""What users of Ray Serve know of handles there and no other test shows: see docs/reference-coverage.md."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.handle_scene import WITHIN_S, Run, only_in_processes, run
from harness.waiting import eventually
from salver import serve
from salver.serve.exceptions import (
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from salver.serve.handle import DeploymentHandle

__all__ = ["run"]


@serve.deployment(num_replicas=2, max_ongoing_requests=2)
class Clerk:
    """Keeps what it is given, and what it gives."""

    def __init__(self) -> None:
        self.kept: list[list[int]] = []
        self.released = threading.Event()

    async def keep(self, numbers: list[int]) -> list[int]:
        numbers.append(-1)
        self.kept.append(numbers)
        return numbers

    async def all_kept(self) -> list[list[int]]:
        return self.kept

    def wait(self) -> str:
        assert self.released.wait(WITHIN_S)
        self.kept.append([1])
        return "released"

    async def release(self) -> None:
        self.released.set()

    async def fail(self) -> None:
        raise LookupError("not kept")

    async def wait_in_the_loop(self) -> str:
        while not self.released.is_set():
            await asyncio.sleep(0.01)
        return "released"


@serve.deployment
class Manager:
    """Calls the clerk on its own account, and for a request."""

    def __init__(self, clerk: DeploymentHandle[Any]) -> None:
        self.clerk = clerk
        self.own = clerk.wait_in_the_loop.remote()

    async def wait(self) -> str:
        return await self.clerk.wait_in_the_loop.remote()

    async def await_own(self) -> str:
        return await self.own


@serve.deployment(num_replicas=2)
class Mortal:
    """Tells who runs a call, and runs it for as long as there is no file."""

    def hold(self, mark: str) -> int:
        with Path(mark).open("a") as log:
            log.write(f"{os.getpid()}\n")
        eventually("it is released", Path(f"{mark}.go").exists, WITHIN_S)
        return os.getpid()


@serve.deployment(max_constructor_retry_count=1)
class Fails:
    def __init__(self) -> None:
        raise LookupError("no weights")

    def __call__(self) -> None: ...


@pytest.fixture
def clerk(run: Run) -> DeploymentHandle[Any]:
    return run(Clerk.options(num_replicas=1).bind())


# --- values -------------------------------------------------------------------------------------------------


def test_arguments_and_results_are_copies(clerk: DeploymentHandle[Any]) -> None:
    given = [1, 2]
    response = clerk.keep.remote(given)
    answer = response.result(timeout_s=WITHIN_S)
    assert (given, answer) == ([1, 2], [1, 2, -1])
    answer.append(3)
    assert clerk.all_kept.remote().result(timeout_s=WITHIN_S) == [[1, 2, -1]]
    assert response.by_reference is False


def test_an_exception_comes_as_often_as_it_is_asked_for(clerk: DeploymentHandle[Any]) -> None:
    response = clerk.fail.remote()

    async def await_it() -> None:
        await response

    for _ in range(2):
        with pytest.raises(LookupError, match="not kept"):
            response.result(timeout_s=WITHIN_S)
        with pytest.raises(LookupError, match="not kept"):
            asyncio.run(await_it())
    with pytest.raises(LookupError, match="not kept"):
        clerk.keep.remote(response).result(timeout_s=WITHIN_S)


def test_options_of_transports_are_accepted(clerk: DeploymentHandle[Any]) -> None:
    """And have no effect: one way of sending values serves all."""
    for serializer in ("cloudpickle", "pickle", "msgpack", "orjson"):
        handle = clerk.options(
            _by_reference=False,
            _prefer_local_routing=True,
            request_serialization=serializer,
            response_serialization=serializer,
        )
        assert handle.keep.remote([1]).result(timeout_s=WITHIN_S) == [1, -1]


# --- broadcasts and loops -----------------------------------------------------------------------------------


def test_a_broadcast_goes_on_after_a_timeout(run: Run) -> None:
    clerk = run(Clerk.bind())
    waiting = clerk.broadcast("wait")
    with pytest.raises(TimeoutError):
        waiting.results(timeout_s=0.1)

    async def results_in_the_loop() -> None:
        waiting.results()

    with pytest.raises(RuntimeError, match="`asyncio` event loop"):
        asyncio.run(results_in_the_loop())
    clerk.broadcast("release").results(timeout_s=WITHIN_S)
    assert waiting.results(timeout_s=WITHIN_S) == ["released"] * 2


def test_handles_are_shut_down_from_loops_too(clerk: DeploymentHandle[Any]) -> None:
    async def use() -> None:
        assert await clerk.keep.remote([]) == [-1]
        assert clerk.is_initialized
        assert clerk.running_replicas_populated()
        await clerk.shutdown_async()
        assert not clerk.is_initialized

    asyncio.run(use())


def test_a_broadcast_is_of_values_whatever_the_handle_streams(run: Run) -> None:
    clerk = run(Clerk.bind())
    assert clerk.options(stream=True).broadcast("all_kept").results(timeout_s=WITHIN_S) == [[], []]

    async def results() -> list[Any]:
        with pytest.raises(TimeoutError):
            await clerk.broadcast("wait_in_the_loop").results_async(timeout_s=0.1)
        return await clerk.broadcast("all_kept").results_async(timeout_s=WITHIN_S)

    assert asyncio.run(results()) == [[], []]


def test_calls_of_the_constructor_belong_to_no_request(run: Run) -> None:
    manager = run(Manager.bind(Clerk.options(num_replicas=1, max_ongoing_requests=4).bind()))
    response = manager.wait.remote()
    with pytest.raises(TimeoutError):
        response.result(timeout_s=0.3)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=WITHIN_S)
    serve.get_deployment_handle("Clerk", "default").release.remote().result(timeout_s=WITHIN_S)
    assert manager.await_own.remote().result(timeout_s=WITHIN_S) == "released"


def test_a_thread_is_not_interrupted_by_a_cancellation(clerk: DeploymentHandle[Any]) -> None:
    response = clerk.wait.remote()
    eventually("it runs or waits for its slot", clerk.running_replicas_populated, WITHIN_S)
    assert clerk.all_kept.remote().result(timeout_s=WITHIN_S) == []  # came after it: it runs now
    response.cancel()
    with pytest.raises(RequestCancelledError):
        response.result(timeout_s=WITHIN_S)
    clerk.release.remote().result(timeout_s=WITHIN_S)
    eventually("it has run to its end", lambda: clerk.all_kept.remote().result(timeout_s=WITHIN_S) == [[1]], WITHIN_S)


# --- what is not there any more -----------------------------------------------------------------------------


def test_a_deployment_that_failed_is_unavailable(run: Run) -> None:
    with pytest.raises(RuntimeError, match=r"^Deploying application default failed: (.*\n)*.*no weights"):
        run(Fails.bind())
    handle: DeploymentHandle[Any] = DeploymentHandle("Fails", "default")

    async def call() -> None:
        await handle.remote()

    with pytest.raises(DeploymentUnavailableError, match="default#Fails is unavailable"):
        asyncio.run(call())
    assert issubclass(DeploymentUnavailableError, RayServeException)


@only_in_processes
@pytest.mark.parametrize("idempotent", [False, True])
def test_a_call_whose_replica_dies(run: Run, tmp_path: Path, idempotent: bool) -> None:
    """It may have had an effect already: only a deployment that says so is called again."""
    mark = tmp_path / "mark"
    response = run(Mortal.options(idempotent=idempotent).bind()).hold.remote(str(mark))
    pid = eventually("it runs", lambda: mark.exists() and mark.read_text(), WITHIN_S)
    os.kill(int(pid), signal.SIGKILL)
    if idempotent:
        (tmp_path / "mark.go").touch()
        assert response.result(timeout_s=WITHIN_S) != int(pid)
    else:
        with pytest.raises(ReplicaUnavailableError, match="died while it ran this request"):
            response.result(timeout_s=WITHIN_S)
    assert len(mark.read_text().split()) == (2 if idempotent else 1)


# --- the end of a replica -----------------------------------------------------------------------------------


class Counted:
    """Writes down what becomes of it."""

    def __init__(self, mark: str) -> None:
        self.mark = Path(mark)

    def __call__(self) -> str:
        return "here"

    def write(self) -> None:
        with self.mark.open("a") as log:
            log.write("gone\n")


class SyncEnd(Counted):
    def __del__(self) -> None:
        self.write()


class AsyncEnd(Counted):
    async def __del__(self) -> None:
        await asyncio.sleep(0)
        self.write()


class FailingEnd(Counted):
    def __del__(self) -> None:
        self.write()
        raise LookupError("nothing to give back")


@pytest.mark.parametrize("kind", [SyncEnd, AsyncEnd, FailingEnd])
def test_a_replica_calls_the_finalizer_of_its_object_once(run: Run, tmp_path: Path, kind: Callable[..., Any]) -> None:
    mark = tmp_path / "mark"
    handle = run(serve.deployment(kind).bind(str(mark)))
    assert handle.remote().result(timeout_s=WITHIN_S) == "here"
    assert not mark.exists()
    serve.delete("default")
    assert mark.read_text() == "gone\n"
