"""The settings of ``serve.batch``: checked, changed while serving, and what can be decorated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from salver.serve.batching.decorator import batch
from salver.wire.payload import dump_definition, load_definition

from .batching_scene import NEVER_S, run, turns


@batch(max_batch_size=4, batch_wait_timeout_s=NEVER_S)
async def doubled(items: list[int]) -> list[int]:
    return [2 * item for item in items]


class Configured:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self.handle_batch.set_max_batch_size(user_config["size"])
        self.handle_batch.set_batch_wait_timeout_s(user_config["wait_s"])

    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def handle_batch(self, items: list[int]) -> list[int]:
        self.sizes.append(len(items))
        return items


def test_setters_work_through_the_object_and_reach_the_next_batch() -> None:
    async def test() -> None:
        model = Configured()
        model.reconfigure({"size": 3, "wait_s": NEVER_S})
        assert model.handle_batch._get_max_batch_size() == 3  # type: ignore[attr-defined]
        await asyncio.gather(*(model.handle_batch(number) for number in range(3)))
        waiting = asyncio.create_task(model.handle_batch(1))
        await turns()
        model.reconfigure({"size": 5, "wait_s": 0})
        await asyncio.gather(waiting, model.handle_batch(2), model.handle_batch(3))
        await model.handle_batch(4)
        assert model.sizes == [3, 3, 1]

    run(test())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_batch_size": 0}, ValueError, "max_batch_size=0: must be an integer >= 1"),
        ({"max_batch_size": -3}, ValueError, "max_batch_size=-3: must be"),
        ({"max_batch_size": 1.5}, TypeError, "max_batch_size=1.5: must be an integer >= 1"),
        ({"max_batch_size": "2"}, TypeError, "max_batch_size='2': must be"),
        ({"max_batch_size": True}, TypeError, "max_batch_size=True: must be"),
        ({"batch_wait_timeout_s": -0.1}, ValueError, "batch_wait_timeout_s=-0.1: must be a number of seconds >= 0"),
        ({"batch_wait_timeout_s": "1"}, TypeError, "batch_wait_timeout_s='1': must be a number"),
        ({"batch_wait_timeout_s": float("nan")}, ValueError, "batch_wait_timeout_s=nan: must be"),
        ({"max_concurrent_batches": 0}, ValueError, "max_concurrent_batches=0: must be an integer >= 1"),
        ({"max_concurrent_batches": None}, TypeError, "max_concurrent_batches=None: must be"),
        ({"batch_size_fn": 3}, TypeError, "batch_size_fn=3: must be a function"),
    ],
)
def test_wrong_settings(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        batch(**options)
    assert str(caught.value).startswith(message)


def test_wrong_settings_of_setters_change_nothing() -> None:
    with pytest.raises(ValueError, match="max_batch_size=0"):
        doubled.set_max_batch_size(0)
    with pytest.raises(TypeError, match="batch_wait_timeout_s='soon'"):
        doubled.set_batch_wait_timeout_s("soon")  # type: ignore[arg-type]
    assert doubled._get_max_batch_size() == 4  # type: ignore[attr-defined]


def test_numbers_of_numpy_and_whole_floats() -> None:
    numpy = pytest.importorskip("numpy")

    @batch(max_batch_size=numpy.int64(3), batch_wait_timeout_s=numpy.float32(0.5))
    async def echo(items: list[int]) -> list[int]:
        return items

    assert (echo._get_max_batch_size(), echo._get_batch_wait_timeout_s()) == (3, 0.5)  # type: ignore[attr-defined]
    echo.set_max_batch_size(8.0)  # type: ignore[arg-type]
    assert echo._get_max_batch_size() == 8  # type: ignore[attr-defined]


def test_what_cannot_be_batched() -> None:
    def plain(items: list[int]) -> list[int]:
        return items

    with pytest.raises(TypeError, match=r"^Functions decorated with @serve.batch must be 'async def'$"):
        batch(plain)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"^Functions decorated with @serve.batch must be 'async def'$"):
        batch(max_batch_size=3)(plain)  # type: ignore[call-overload]
    for no_function in (3, Configured, Configured()):
        with pytest.raises(TypeError, match=r"^@serve.batch can only be used to decorate functions or methods.$"):
            batch(no_function)  # type: ignore[call-overload]


def test_a_decorator_used_twice_makes_two_functions() -> None:
    decorator = batch(max_batch_size=2)

    @decorator
    async def one(items: list[int]) -> list[int]:
        return items

    @decorator
    async def other(items: list[int]) -> list[int]:
        return items

    one.set_max_batch_size(7)
    assert other._get_max_batch_size() == 2  # type: ignore[attr-defined]


def test_it_travels_by_value_with_its_settings_and_without_its_past() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def incremented(items: list[int]) -> list[int]:
        return [item + 1 for item in items]

    async def both(function: Any) -> None:
        assert await asyncio.gather(function(1), function(2)) == [2, 3]

    run(both(incremented))
    travelled = load_definition(dump_definition(incremented))
    assert travelled is not incremented
    assert (travelled._get_max_batch_size(), travelled.recent_batches()) == (2, ())
    travelled.set_max_batch_size(3)
    assert incremented._get_max_batch_size() == 2  # type: ignore[attr-defined]
    travelled.set_max_batch_size(2)
    run(both(travelled))
