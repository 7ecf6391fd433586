"""``serve.batch`` as its users see it: lists in, one result out, per object, per loop, with settings that change."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from functools import wraps
from typing import Any

import pytest

from salver.serve.batching.decorator import batch
from salver.serve.batching.queue import _queues
from salver.serve.exceptions import RayServeException

from .batching_scene import NEVER_S, Held, requested, run, turns


@pytest.fixture(autouse=True)
def no_queue_is_left() -> Any:
    yield
    assert not _queues


@batch(max_batch_size=4, batch_wait_timeout_s=NEVER_S)
async def doubled(items: list[int]) -> list[int]:
    return [2 * item for item in items]


def test_a_function() -> None:
    async def test() -> None:
        assert await asyncio.gather(*(doubled(number) for number in range(8))) == list(range(0, 16, 2))
        assert [record.size for record in doubled.recent_batches()[-2:]] == [4, 4]

    run(test())


def test_without_parentheses() -> None:
    @batch
    async def echo(items: list[str]) -> list[str]:
        return items

    async def test() -> None:
        assert await asyncio.gather(echo("a"), echo("b")) == ["a", "b"]

    run(test())
    assert (echo._get_max_batch_size(), echo._get_batch_wait_timeout_s()) == (10, 0.01)  # type: ignore[attr-defined]
    assert [(record.size, record.reason) for record in echo.recent_batches()] == [(2, "timeout")]


def test_it_is_still_that_function() -> None:
    assert doubled.__name__ == "doubled"
    assert inspect.iscoroutinefunction(doubled)


def test_calls_of_one_turn_meet_without_waiting() -> None:
    @batch(batch_wait_timeout_s=0)
    async def sizes(items: list[int]) -> list[int]:
        return [len(items)] * len(items)

    async def test() -> None:
        assert await asyncio.gather(*map(sizes, range(7))) == [7] * 7

    run(test())


def test_every_parameter_becomes_a_list() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def received(first: list[int], second: list[int], *, extra: list[int]) -> list[Any]:
        return [(first, second, extra)] * len(first)

    async def test() -> None:
        results = await asyncio.gather(received(1, 2, extra=3), received(4, 5, extra=6))
        assert results == [([1, 4], [2, 5], [3, 6])] * 2

    run(test())


def test_calls_with_other_parameters_are_other_batches() -> None:
    @batch(batch_wait_timeout_s=0)
    async def received(item: list[int], other: list[int] | None = None) -> list[Any]:
        return [(item, other)] * len(item)

    async def test() -> None:
        results = await asyncio.gather(received(1), received(2, 3), received(4), received(item=5))
        assert results == [([1, 4], None), ([2], [3]), ([1, 4], None), ([5], None)]

    run(test())


def test_a_call_without_an_item() -> None:
    async def test() -> None:
        with pytest.raises(TypeError, match=r"^doubled\(\) is batched: it takes an item"):
            await doubled()

    run(test())


class Model:
    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.sizes: list[int] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def predict(self, items: list[int]) -> list[int]:
        self.sizes.append(len(items))
        return [self.factor * item for item in items]

    @batch(batch_wait_timeout_s=0)
    async def __call__(self, items: list[int]) -> list[int]:
        return [self.factor + item for item in items]

    @staticmethod
    @batch(batch_wait_timeout_s=0)
    async def plain(items: list[Any]) -> list[int]:
        return [len(items)] * len(items)

    @classmethod
    @batch(batch_wait_timeout_s=0)
    async def of_class(cls, items: list[int]) -> list[str]:
        return [f"{cls.__name__}{item}" for item in items]


def test_methods_have_a_queue_for_each_object() -> None:
    async def test() -> None:
        two, three = Model(2), Model(3)
        results = await asyncio.gather(two.predict(1), three.predict(1), two.predict(2), three.predict(2), two(5))
        assert results == [2, 3, 4, 6, 7]
        assert (two.sizes, three.sizes) == ([2], [2])

    run(test())


def test_static_and_class_methods() -> None:
    async def test() -> None:
        model = Model(1)
        assert await asyncio.gather(model.plain(model), Model.plain(model)) == [2, 2]
        assert await asyncio.gather(model.of_class(1), Model.of_class(2)) == ["Model1", "Model2"]

    run(test())


def test_a_method_that_is_inherited_overridden_mangled_or_decorated_again() -> None:
    def logged(function: Any) -> Any:
        @wraps(function)
        async def call(*args: Any) -> Any:
            return ("logged", await function(*args))

        return call

    class Child(Model):
        async def predict(self, item: int) -> int:  # type: ignore[override]
            return -await super().predict(item)

        @logged
        @batch(batch_wait_timeout_s=0)
        async def decorated(self, items: list[int]) -> list[int]:
            return [self.factor - item for item in items]

        @batch(batch_wait_timeout_s=0)
        async def __hidden(self, items: list[int]) -> list[int]:
            return items

        async def shown(self, item: int) -> int:
            return await self.__hidden(item)

    async def test() -> None:
        child = Child(2)
        assert await asyncio.gather(child.predict(4), child.decorated(1), child.shown(7)) == [-8, ("logged", 1), 7]

    run(test())


def test_a_bound_method_can_be_batched_in_the_constructor() -> None:
    class Late:
        def __init__(self, size: int) -> None:
            self.predict = batch(max_batch_size=size, batch_wait_timeout_s=NEVER_S)(self._predict)

        async def _predict(self, items: list[int]) -> list[int]:
            return [len(items)] * len(items)

    async def test() -> None:
        late = Late(3)
        assert await asyncio.gather(*(late.predict(each) for each in (late, 2, 3))) == [3, 3, 3]

    run(test())


def test_objects_are_let_go_even_without_weak_references() -> None:
    class Slotted:
        __slots__ = ("content",)

        @batch(batch_wait_timeout_s=0)
        async def predict(self, items: list[int]) -> list[object]:
            return [self.content] * len(items)

    class Content: ...

    async def test() -> None:
        slotted = Slotted()
        slotted.content = content = Content()
        gone = weakref.ref(content)
        assert await slotted.predict(1) is content
        del slotted, content
        await turns()
        gc.collect()
        assert gone() is None

    run(test())


def test_loops_after_each_other_and_in_threads() -> None:
    async def four(start: int) -> list[int]:
        return await asyncio.gather(*(doubled(start + number) for number in range(4)))

    async def test() -> None:
        in_thread = asyncio.to_thread(lambda: asyncio.run(four(10)))
        assert await asyncio.gather(four(0), in_thread) == [[0, 2, 4, 6], [20, 22, 24, 26]]

    run(test())
    run(test())


def test_a_loop_that_was_closed_under_its_calls_is_forgotten() -> None:
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(doubled(1))
    loop.run_until_complete(turns())
    loop.close()
    assert len(_queues) == 1
    run(requested(Model(1).predict, 1))
    assert not _queues
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("returned", [[1], [1, 2, 3]])
def test_a_result_of_another_length(returned: list[int]) -> None:
    @batch(max_batch_size=2)
    async def wrong(items: list[int]) -> list[int]:
        return returned

    async def test() -> None:
        for result in await asyncio.gather(wrong(1), wrong(2), return_exceptions=True):
            assert type(result) is RayServeException
            assert str(result) == (
                "Batched function doesn't preserve batch size. The input list has length 2 but the returned list has "
                f"length {len(returned)}."
            )

    run(test())


def test_a_result_that_is_no_list() -> None:
    @batch(max_batch_size=1)
    async def forgetful(items: list[int]) -> Any: ...

    async def test() -> None:
        with pytest.raises(RayServeException, match="must give a list with one result for each item, not NoneType"):
            await forgetful(1)

    run(test())


def test_an_array_is_as_good_as_a_list() -> None:
    numpy = pytest.importorskip("numpy")

    @batch(max_batch_size=2)
    async def squared(items: list[int]) -> Any:
        return numpy.array(items) ** 2

    async def test() -> None:
        assert await asyncio.gather(squared(2), squared(3)) == [4, 9]

    run(test())


@pytest.mark.parametrize("error", [KeyError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_is_everyones(error: BaseException) -> None:
    """One that would end the event loop, too."""

    @batch(max_batch_size=3)
    async def failing(items: list[int]) -> list[int]:
        raise error

    async def outcome(item: int) -> BaseException | None:
        try:
            await failing(item)
        except BaseException as raised:
            return raised
        return None

    async def test() -> None:
        assert await asyncio.gather(*map(outcome, range(3))) == [error] * 3

    run(test())


def test_as_many_batches_run_at_once_as_are_allowed() -> None:
    async def test() -> None:
        held = Held(max_batch_size=2, batch_wait_timeout_s=NEVER_S, max_concurrent_batches=2)
        calls = [held.start(number) for number in range(8)]
        assert [await held.batches.get(), await held.batches.get()] == [[0, 1], [2, 3]]
        await turns()
        assert held.running == 2
        held.release()
        assert await held.batches.get() == [4, 5]
        await turns()
        assert held.running == 2
        held.release(3)
        assert await asyncio.gather(*calls) == list(range(8))

    run(test())


def test_weighed_batches() -> None:
    @batch(max_batch_size=10, batch_wait_timeout_s=0, batch_size_fn=lambda items: sum(map(len, items)))
    async def lengths(items: list[str]) -> list[list[int]]:
        return [[len(item) for item in items]] * len(items)

    async def test() -> None:
        results = await asyncio.gather(*map(lengths, ("aaaa", "bbbb", "cccc", "dddddd", "e")))
        assert results == [[4, 4]] * 2 + [[4, 6]] * 2 + [[1]]
        with pytest.raises(RuntimeError, match=r"^Size of item is greater than max_batch_size.*weighs 11, max"):
            await lengths("x" * 11)
        with pytest.raises(TypeError, match="no len"):
            await lengths(3)

    run(test())


def test_a_weight_function_that_fails_for_several_splits_them(caplog: pytest.LogCaptureFixture) -> None:
    def weight(items: list[int]) -> int:
        if len(items) > 1:
            raise ValueError("cannot add")
        return 1

    @batch(max_batch_size=10, batch_wait_timeout_s=0, batch_size_fn=weight)
    async def echo(items: list[int]) -> list[int]:
        return items

    async def test() -> None:
        assert await asyncio.gather(echo(1), echo(2)) == [1, 2]

    run(test())
    assert [record.size for record in echo.recent_batches()] == [1, 1]
    assert "batch_size_fn of echo failed for 2 items" in caplog.text
