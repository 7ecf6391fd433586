"""The user's object: constructed from its definition, called on the loop or in a thread, and found out about."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest

from salver.data.replica.user_code import MethodMissing, UnexpectedGenerator, UserCode
from salver.wire.payload import dump_definition

from .scene import run

variable: ContextVar[str] = ContextVar("variable", default="")


@asynccontextmanager
async def constructed(target: object, *args: object, threads: int = 2, **kwargs: object) -> AsyncGenerator[UserCode]:
    user = await UserCode.construct(dump_definition((target, args, kwargs)), threads=threads, name="d")
    try:
        yield user
    finally:
        user.close()


class Plain:
    def __init__(self, scale: int, *, offset: int = 0) -> None:
        self.scale, self.offset = scale, offset
        self.constructed_in = threading.current_thread()
        self._private = 1
        self.attribute = 5

    def __call__(self, x: int) -> int:
        return self.scale * x + self.offset

    async def later(self, x: int) -> int:
        await asyncio.sleep(0)
        return -x

    def thread(self) -> threading.Thread:
        return threading.current_thread()

    async def loop_thread(self) -> threading.Thread:
        return threading.current_thread()

    def context(self) -> str:
        value = variable.get()
        variable.set("changed by the thread")
        return value

    @functools.lru_cache  # noqa: B019 - a method that is no plain function
    def cached(self, x: int) -> int:
        return x

    @staticmethod
    def static(x: int) -> int:
        return x + 1

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    def generator(self) -> Iterator[int]:
        yield 1

    async def async_generator(self) -> AsyncIterator[int]:
        yield 1


class Constructed:
    async def __init__(self, value: int) -> None:  # type: ignore[misc]
        await asyncio.sleep(0)
        self.value = value

    async def __call__(self) -> int:
        return self.value


def function(x: int) -> int:
    return x + 1


async def coroutine_function(x: int) -> int:
    return x + 2


class CallableObject:
    async def __call__(self, x: int) -> int:
        return x + 3


def test_a_class_gets_its_arguments_on_the_loops_thread() -> None:
    async def test() -> None:
        async with constructed(Plain, 3, offset=4) as user:
            assert await user.call("__call__", (5,), {}) == 19
            assert await user.call("__call__", (), {"x": 1}) == 7
            assert user.target.constructed_in is threading.main_thread()

    run(test())


def test_async_methods_run_on_the_loop_and_others_in_threads() -> None:
    async def test() -> None:
        async with constructed(Plain, 1) as user:
            assert await user.call("later", (5,), {}) == -5
            assert await user.call("loop_thread", (), {}) is threading.main_thread()
            thread = await user.call("thread", (), {})
            assert thread.name.startswith("salver-d")

    run(test())


def test_threads_see_the_requests_context_and_do_not_change_it() -> None:
    async def test() -> None:
        async with constructed(Plain, 1, threads=1) as user:
            for value in ("one", "two"):
                variable.set(value)
                assert await user.call("context", (), {}) == value
                assert variable.get() == value

    run(test())


class Meets:
    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties, timeout=20)

    def meet(self) -> int:
        return self.barrier.wait()


def test_there_are_as_many_threads_as_slots() -> None:
    async def test() -> None:
        async with constructed(Meets, 5, threads=5) as user:
            places = await asyncio.gather(*(user.call("meet", (), {}) for _ in range(5)))
            assert sorted(places) == list(range(5))

    run(test())


@pytest.mark.parametrize(("method", "result"), [("cached", 4), ("static", 5)])
def test_methods_of_every_sort(method: str, result: int) -> None:
    async def test() -> None:
        async with constructed(Plain, 1) as user:
            assert await user.call(method, (4,), {}) == result
            assert await user.call(method, (4,), {}) == result
            assert await user.call("of_class", (), {}) == "Plain"

    run(test())


def test_an_async_constructor_is_awaited() -> None:
    async def test() -> None:
        async with constructed(Constructed, 6) as user:
            assert await user.call("__call__", (), {}) == 6
            assert user.http_handler_is_async
            assert not user.http_takes_request

    run(test())


@pytest.mark.parametrize(
    ("target", "result", "is_async"),
    [(function, 2, False), (coroutine_function, 3, True), (functools.partial(function), 2, False)],
)
def test_functions(target: Any, result: int, is_async: bool) -> None:
    async def test() -> None:
        async with constructed(target) as user:
            assert await user.call("__call__", (1,), {}) == result
            assert user.http_handler_is_async is is_async
            assert user.http_takes_request
            with pytest.raises(
                MethodMissing, match=r"'other' that does not exist. Available methods: \['__call__'\]"
            ):
                await user.call("other", (), {})

    run(test())


def test_an_instance_with_an_async_call_is_a_function_of_the_loop() -> None:
    async def test() -> None:
        async with constructed(CallableObject()) as user:
            assert await user.call("__call__", (1,), {}) == 4
            assert user.http_handler_is_async

    run(test())


def test_a_missing_method_lists_those_that_exist() -> None:
    async def test() -> None:
        async with constructed(Plain, 1) as user:
            for name in ("missing", "attribute"):
                with pytest.raises(MethodMissing) as caught:
                    await user.call(name, (), {})
                assert f"Tried to call a method '{name}'" in str(caught.value)
                assert "'later'" in str(caught.value)
                assert "'attribute'" not in str(caught.value).partition("Available")[2]
                assert "_private" not in str(caught.value)

    run(test())


@pytest.mark.parametrize("method", ["generator", "async_generator"])
def test_generators_must_be_asked_for(method: str) -> None:
    async def test() -> None:
        async with constructed(Plain, 1) as user:
            with pytest.raises(UnexpectedGenerator, match=r"options\(stream=True\)"):
                await user.call(method, (), {})

    run(test())


class NoCall:
    def other(self) -> None:
        pass


class TakesNothing:
    def __call__(self) -> str:
        return "no request"


def test_the_http_handler() -> None:
    async def test() -> None:
        async with constructed(NoCall) as user:
            assert user.http_handler is None
        async with constructed(TakesNothing) as user:
            assert user.http_handler is not None
            assert not user.http_takes_request
            assert not user.http_handler_is_async
        async with constructed(print) as user:
            assert user.http_takes_request

    run(test())


class RaisesInInit:
    def __init__(self) -> None:
        raise KeyError("user's own")


def test_the_constructors_error_comes_out_as_it_is() -> None:
    async def test() -> None:
        with pytest.raises(KeyError, match="user's own"):
            await UserCode.construct(dump_definition((RaisesInInit, (), {})), threads=1, name="d")
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'scale'"):
            await UserCode.construct(dump_definition((Plain, (), {})), threads=1, name="d")

    run(test())


class Reluctant:
    async def __del__(self) -> None:
        await asyncio.Event().wait()


class Angry:
    def __del__(self) -> None:
        raise SystemExit("not without a fight")


@pytest.mark.parametrize(("kind", "cause"), [(Reluctant, "TimeoutError"), (Angry, "SystemExit: not without a fight")])
def test_a_finalizer_that_hangs_or_raises_ends_nobody(
    kind: type, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with constructed(kind) as user:
            await user.stop(0.05)

    run(test())
    (record,) = caplog.records
    assert record.message.startswith("d.__del__ failed\n")
    assert cause in record.message


class Deadlocked:
    """Its ``__del__`` waits until the test lets it go."""

    let_go = threading.Event()
    threads: ClassVar[list[threading.Thread]] = []

    def __del__(self) -> None:
        self.threads.append(threading.current_thread())
        self.let_go.wait()


def test_a_finalizer_that_is_stuck_in_its_thread_holds_up_neither_the_loop_nor_its_end() -> None:
    async def test() -> None:
        async with constructed(Deadlocked) as user:
            await user.stop(0.05)

    run(test())
    Deadlocked.let_go.set()
    Deadlocked.threads[0].join(20)
