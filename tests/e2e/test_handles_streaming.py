"""Generators called through handles: items as they come, back-pressure, and how streams end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from e2e.handle_scene import WITHIN_S, Run, only_in_processes, run
from harness.waiting import eventually
from salver import serve
from salver.serve.context import _get_serve_request_context
from salver.serve.exceptions import ReplicaUnavailableError, RequestCancelledError, SerializationError
from salver.serve.handle import DeploymentHandle, DeploymentResponseGenerator

__all__ = ["run"]

ITEM = b"x" * 16_384
MOST_AHEAD = 64 * 1024 // len(ITEM) + 2
"""Items that may be under way: a window, and one that was begun when it was still open."""

KINDS = ["count", "count_async"]


@serve.deployment(max_ongoing_requests=20)
class Press:
    """Every kind of generator that a test needs."""

    def __init__(self) -> None:
        self.printed = 0
        self.closed: list[str] = []
        self.released = threading.Event()

    def count(self, stop: int) -> Iterator[int]:
        yield from range(stop)

    async def count_async(self, stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            yield number

    def returned(self, stop: int) -> Iterator[int]:
        return iter(range(stop))

    def fail_at(self, index: int) -> Iterator[int]:
        yield from range(index)
        raise ValueError(f"out of paper at {index}")

    async def fail_at_async(self, index: int) -> AsyncIterator[int]:
        for number in range(index):
            yield number
        raise ValueError(f"out of paper at {index}")

    def unpicklable(self) -> Iterator[Any]:
        yield 1
        yield {"lock": threading.Lock()}

    def pages(self) -> Iterator[bytes]:
        try:
            while True:
                self.printed += 1
                yield ITEM
        finally:
            self.closed.append("pages")

    async def pages_async(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.printed += 1
                yield ITEM
        finally:
            await asyncio.sleep(0)
            self.closed.append("pages_async")

    async def wait_after_first(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.append("wait_after_first")

    def circumstances(self) -> Iterator[tuple[str, int]]:
        while True:
            yield _get_serve_request_context().request_id, threading.get_ident()

    def pid_and_then(self) -> Iterator[int]:
        yield os.getpid()
        self.released.wait(WITHIN_S)

    async def state(self) -> tuple[int, list[str]]:
        return self.printed, self.closed

    def plain(self) -> list[int]:
        return [1]


@serve.deployment
class Reader:
    """Reads streams inside a replica."""

    def __init__(self, press: DeploymentHandle[Any]) -> None:
        self.press = press.options(stream=True)

    async def by_async_for(self, stop: int) -> list[int]:
        return [number async for number in self.press.count.remote(stop)]

    def by_for(self, stop: int) -> list[int]:
        return list(self.press.count_async.remote(stop))

    async def by_for_on_the_loop(self) -> list[int]:
        return list(self.press.count.remote(1))

    async def on_again(self, stop: int) -> AsyncIterator[int]:
        async for number in self.press.count.remote(stop):
            yield number + 1


@pytest.fixture
def press(run: Run) -> DeploymentHandle[Any]:
    return run(Press.bind())


def streaming(handle: DeploymentHandle[Any], method: str, *args: Any) -> DeploymentResponseGenerator[Any]:
    return handle.options(method_name=method, stream=True).remote(*args)


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*KINDS, "returned"])
def test_a_thread_reads_with_for(press: DeploymentHandle[Any], method: str) -> None:
    stream = streaming(press, method, 5)
    assert list(stream) == [0, 1, 2, 3, 4]
    assert list(stream) == [], "it has ended for good"
    assert list(streaming(press, method, 0)) == []


@pytest.mark.parametrize("method", KINDS)
def test_a_loop_reads_with_async_for(press: DeploymentHandle[Any], method: str) -> None:
    async def read() -> list[int]:
        return [number async for number in streaming(press, method, 20_000)]

    assert asyncio.run(read()) == list(range(20_000))


def test_threads_share_a_stream(press: DeploymentHandle[Any]) -> None:
    stream = streaming(press, "count", 10_000)
    with ThreadPoolExecutor(4) as pool:
        parts = [pool.submit(list, stream) for _ in range(4)]
        numbers = [number for part in parts for number in part.result(WITHIN_S)]
    assert sorted(numbers) == list(range(10_000)), "each item went to one of them"


def test_replicas_read_from_each_other(run: Run) -> None:
    reader = run(Reader.bind(Press.bind()))
    assert reader.by_async_for.remote(3).result(timeout_s=WITHIN_S) == [0, 1, 2]
    assert reader.by_for.remote(3).result(timeout_s=WITHIN_S) == [0, 1, 2]
    assert list(reader.options(stream=True).on_again.remote(3)) == [1, 2, 3]
    with pytest.raises(RuntimeError, match="Use `async for` instead"):
        reader.by_for_on_the_loop.remote().result(timeout_s=WITHIN_S)


def test_an_item_arrives_when_it_is_yielded(press: DeploymentHandle[Any]) -> None:
    stream = streaming(press, "wait_after_first")
    assert next(stream) == 1
    assert "open" in repr(stream)


def test_a_synchronous_generator_has_the_requests_context_and_one_thread(press: DeploymentHandle[Any]) -> None:
    stream = streaming(press, "circumstances")
    seen = set(itertools.islice(stream, 5_000))
    assert [request_id for request_id, _ in seen] == [stream.request_id]


# --- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fail_at", "fail_at_async"])
def test_an_error_comes_at_the_failing_item(press: DeploymentHandle[Any], method: str) -> None:
    stream = streaming(press, method, 3)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="out of paper at 3") as caught:
            next(stream)
    assert f"in {method}" in str(caught.value.__cause__)


def test_an_item_that_cannot_be_pickled_is_named(press: DeploymentHandle[Any]) -> None:
    stream = streaming(press, "unpicklable")
    assert next(stream) == 1
    with pytest.raises(SerializationError, match=r"^item 2 of Press\.unpicklable\['lock'\] cannot be pickled"):
        next(stream)


@pytest.mark.parametrize("method", ["pages", "pages_async"])
def test_a_slow_consumer_stops_the_generator(press: DeploymentHandle[Any], method: str) -> None:
    stream = streaming(press, method)
    for taken in (1, 2, 12):
        while taken > 0:
            assert next(stream) == ITEM
            taken -= 1
    eventually("it has filled the window again", lambda: printed(press) >= 15 + 64 * 1024 // len(ITEM) - 1)
    for _ in range(20):
        assert printed(press) <= 15 + MOST_AHEAD
    stream.cancel()


def printed(press: DeploymentHandle[Any]) -> int:
    return press.state.remote().result(timeout_s=WITHIN_S)[0]


def closed(press: DeploymentHandle[Any]) -> list[str]:
    return press.state.remote().result(timeout_s=WITHIN_S)[1]


@pytest.mark.parametrize("method", ["pages", "pages_async", "wait_after_first"])
def test_dropping_a_stream_closes_the_generator(press: DeploymentHandle[Any], method: str) -> None:
    for _ in streaming(press, method):
        break
    eventually("its finally block has run", lambda: closed(press) == [method], WITHIN_S)


def test_dropping_a_stream_in_a_loop_closes_the_generator(press: DeploymentHandle[Any]) -> None:
    async def read_one() -> None:
        async for _ in streaming(press, "pages_async"):
            break

    asyncio.run(read_one())
    eventually("its finally block has run", lambda: closed(press) == ["pages_async"], WITHIN_S)


@pytest.mark.parametrize("method", ["pages", "pages_async", "wait_after_first"])
def test_a_cancelled_stream_gives_nothing_more(press: DeploymentHandle[Any], method: str) -> None:
    stream = streaming(press, method)
    next(stream)
    assert not stream.cancelled()
    stream.cancel()
    assert stream.cancelled()
    with pytest.raises(RequestCancelledError, match=stream.request_id):
        for _ in stream:
            pass
    eventually("its finally block has run", lambda: closed(press) == [method], WITHIN_S)


def test_a_task_that_is_cancelled_while_it_reads_ends_the_stream(press: DeploymentHandle[Any]) -> None:
    async def read() -> None:
        stream = streaming(press, "wait_after_first")
        assert await anext(stream) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        with pytest.raises(RequestCancelledError):
            await anext(stream)

    asyncio.run(read())
    eventually("its finally block has run", lambda: closed(press) == ["wait_after_first"], WITHIN_S)


@only_in_processes
def test_a_replica_that_dies_ends_the_stream_after_what_came(run: Run) -> None:
    press = run(Press.bind())
    stream = streaming(press, "pid_and_then")
    os.kill(next(stream), signal.SIGKILL)
    with pytest.raises(ReplicaUnavailableError):
        next(stream)


# --- wrong uses ---------------------------------------------------------------------------------------------


def test_a_stream_has_no_single_result(press: DeploymentHandle[Any]) -> None:
    stream = streaming(press, "count", 3)

    async def await_it() -> None:
        await stream  # type: ignore[misc]

    with pytest.raises(TypeError, match="cannot be awaited"):
        asyncio.run(await_it())
    with pytest.raises(TypeError, match=r"has no `\.result\(\)`"):
        stream.result()
    assert list(stream) == [0, 1, 2]


def test_a_stream_cannot_be_an_argument(press: DeploymentHandle[Any]) -> None:
    for arguments in ([streaming(press, "count", 3)], [[{"nested": streaming(press, "count", 3)}]]):
        with pytest.raises(
            RuntimeError, match=r"^Streaming deployment handle results cannot be passed to downstream handle calls\. "
        ):
            press.plain.remote(*arguments)


def test_a_method_that_is_no_generator_cannot_be_streamed(press: DeploymentHandle[Any]) -> None:
    with pytest.raises(TypeError) as caught:
        next(streaming(press, "plain"))
    assert str(caught.value) == (
        "Called method 'plain' with `handle.options(stream=True)` but it did not return a generator."
    )
