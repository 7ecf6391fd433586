"""Generators that yield lists: one stream for each call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from typing import Any

import pytest

from salver.errors import RequestTimeoutError, ServeException
from salver.serve.batching.call import MAX_UNREAD
from salver.serve.batching.decorator import batch
from salver.serve.batching.queue import _queues

from .batching_scene import NEVER_S, requested, run, turns


@pytest.fixture(autouse=True)
def no_queue_is_left() -> Generator[None]:
    yield
    assert not _queues


async def collect(stream: Any) -> list[Any]:
    return [value async for value in stream]


@batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
async def counting(items: list[int]) -> AsyncIterator[list[int]]:
    for step in range(3):
        yield [10 * item + step for item in items]


def test_each_call_gets_its_values() -> None:
    async def test() -> None:
        assert await asyncio.gather(collect(counting(1)), collect(counting(2))) == [[10, 11, 12], [20, 21, 22]]

    run(test())
    assert inspect.isasyncgenfunction(counting)


def test_methods() -> None:
    class Model:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        async def generate(self, items: list[int], lengths: list[int]) -> AsyncIterator[list[Any]]:
            for step in range(max(lengths)):
                yield [
                    self.factor * item if step < length else StopIteration
                    for item, length in zip(items, lengths, strict=True)
                ]

    async def test() -> None:
        model = Model(7)
        results = await asyncio.gather(collect(model.generate(1, 2)), collect(model.generate(2, 1)))
        assert results == [[7, 7], [14]]

    run(test())


@pytest.mark.parametrize("end", [StopIteration, StopAsyncIteration, StopIteration(), StopAsyncIteration()])
def test_a_stream_ends_before_the_others(end: object) -> None:
    finished = []

    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def generate(items: list[int]) -> AsyncIterator[list[Any]]:
        yield [0, 1]
        yield [end, 2]
        yield ["ignored", 3]
        yield [end, end]
        finished.append(True)

    async def test() -> None:
        assert await asyncio.gather(collect(generate(0)), collect(generate(1))) == [[0], [1, 2, 3]]
        await turns()
        assert finished == [True]

    run(test())


def test_values_come_as_they_are_made() -> None:
    async def test() -> None:
        made = asyncio.Semaphore(0)

        @batch(max_batch_size=1)
        async def generate(items: list[int]) -> AsyncIterator[list[int]]:
            for step in range(3):
                await made.acquire()
                yield [step]

        async with aclosing(generate(0)) as stream:
            for step in range(3):
                made.release()
                assert await anext(stream) == step

    run(test())


def test_an_exception_comes_after_the_values_before_it() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def generate(items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        yield items
        raise KeyError("in the middle")

    async def read(item: int) -> list[int]:
        values: list[int] = []
        with pytest.raises(KeyError, match="in the middle"):
            async for value in generate(item):
                values.append(value)  # noqa: PERF401 - what came before the exception counts
        return values

    async def test() -> None:
        assert await asyncio.gather(read(1), read(2)) == [[1, 1], [2, 2]]

    run(test())


def test_a_list_of_another_length() -> None:
    closed = []

    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def generate(items: list[int]) -> AsyncIterator[list[int]]:
        try:
            yield [1]
        finally:
            closed.append(True)

    async def test() -> None:
        results = await asyncio.gather(collect(generate(1)), collect(generate(2)), return_exceptions=True)
        for result in results:
            assert isinstance(result, ServeException)
            assert "The input list has length 2 but the returned list has length 1." in str(result)
        assert closed == [True]

    run(test())


def test_a_stream_that_is_never_read_holds_no_place() -> None:
    async def test() -> None:
        unread = counting(5)
        assert await asyncio.gather(collect(counting(1)), collect(counting(2))) == [[10, 11, 12], [20, 21, 22]]
        await unread.aclose()

    run(test())


def test_when_all_readers_leave_the_generator_ends() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        async def generate(items: list[int]) -> AsyncIterator[list[int]]:
            try:
                while True:
                    yield items
                    await asyncio.sleep(0)
            finally:
                ended.set()

        async def read_one(item: int) -> int:
            async with aclosing(generate(item)) as stream:
                return await anext(stream)

        staying = generate(2)
        first = asyncio.ensure_future(anext(staying))
        assert await read_one(1) == 1
        assert [await first, await anext(staying)] == [2, 2]
        await turns()
        assert not ended.is_set()
        await staying.aclose()
        await ended.wait()

    run(test())


def test_a_reader_that_is_cancelled_while_it_waits_for_its_batch() -> None:
    async def test() -> None:
        leaving = asyncio.create_task(collect(counting(1)))
        await turns()
        leaving.cancel()
        await asyncio.wait({leaving})
        assert await asyncio.gather(collect(counting(2)), collect(counting(3))) == [[20, 21, 22], [30, 31, 32]]

    run(test())


def test_a_reader_that_is_too_slow_fails_alone() -> None:
    async def test() -> None:
        quick_done = asyncio.Event()

        @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        async def generate(items: list[int]) -> AsyncIterator[list[int]]:
            for step in range(2 * MAX_UNREAD):
                yield [step] * len(items)
                await asyncio.sleep(0)

        async def read_slowly() -> list[int]:
            values: list[int] = []
            with pytest.raises(ServeException, match="read too slowly: 1000 values of it were unread"):
                async for value in generate(0):
                    values.append(value)
                    await quick_done.wait()
            return values

        async def read_quickly() -> int:
            values = await collect(generate(1))
            quick_done.set()
            return len(values)

        slow, quick = await asyncio.gather(read_slowly(), read_quickly())
        assert quick == 2 * MAX_UNREAD
        assert slow == list(range(len(slow)))
        assert MAX_UNREAD <= len(slow) <= MAX_UNREAD + 1

    run(test())


def test_a_deadline_that_has_passed() -> None:
    async def read() -> None:
        await collect(counting(1))

    async def test() -> None:
        with pytest.raises(RequestTimeoutError):
            await requested(read, deadline=1.0)

    run(test())


def test_no_isolation_of_errors() -> None:
    with pytest.raises(TypeError, match="isolate_errors=True: not for generators"):

        @batch(isolate_errors=True)
        async def generate(items: list[int]) -> AsyncIterator[list[int]]:
            yield items
