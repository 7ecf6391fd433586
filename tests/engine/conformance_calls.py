"""What every engine must do: calls of a replica that it has started, as far as where it runs could matter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

import numpy as np

from salver import serve
from salver.data.context import request_context
from salver.data.shared_memory import SHARED_FROM_BYTES, SharedPayload, load_shared, release_of, share
from salver.engine.interface import Exited
from salver.serve.metrics import Counter
from salver.wire.frames import END, SHARED, Kind
from salver.wire.messages import (
    STREAM_WINDOW_BYTES,
    CallMeta,
    decode_error,
    decode_models,
    encode_credit,
)
from salver.wire.payload import dump_value, load_value

from .world import WITHIN_S, Caller, World

mark: ContextVar[str] = ContextVar("mark", default="unset")


class Probe:
    """The user's class: does what a check asks for."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.cancelled = 0
        self.calls = Counter("conformance_calls", "Calls of this check.")

    async def echo(self, value: object) -> object:
        return value

    async def when_told(self, value: object) -> object:
        await self.told.wait()
        return value

    async def tell(self) -> None:
        self.told.set()

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    async def times_cancelled(self) -> int:
        return self.cancelled

    async def count(self, to: int) -> AsyncGenerator[int]:
        for number in range(to):
            yield number

    async def large_items(self, count: int) -> AsyncGenerator[bytes]:
        for _ in range(count):
            yield b"x" * STREAM_WINDOW_BYTES

    async def remaining_s(self) -> float | None:
        deadline = request_context.get().deadline
        return None if deadline is None else deadline - time.monotonic()

    async def mark(self) -> str:
        return mark.get()

    @serve.multiplexed(max_num_models_per_replica=1)
    async def load(self, model_id: str) -> str:
        return model_id

    async def inc(self) -> None:
        self.calls.inc()


def call(caller: Caller, stream: int, method: str, /, *args: object, **meta: Any) -> None:
    caller.call(stream, CallMeta(method, f"request-{stream}", **meta), bytes(dump_value((args, {}))))


async def ask(caller: Caller, stream: int, method: str, /, *args: object, **meta: Any) -> Any:
    call(caller, stream, method, *args, **meta)
    return load_value((await caller.next(Kind.RESPONSE, stream)).payload)


async def calls_are_answered_in_any_order(world: World) -> None:
    async with world.serving("qaaa", Probe) as (_, caller):
        call(caller, 1, "when_told", "first")
        assert await ask(caller, 2, "echo", ["second"]) == ["second"]
        call(caller, 4, "tell")
        answers = {(await caller.next(Kind.RESPONSE, 1, 4)).stream for _ in range(2)}
        assert answers == {1, 4}
        call(caller, 3, "nowhere")
        error = decode_error((await caller.next(Kind.ERROR, 3)).meta)
        assert "'nowhere'" in error.message


async def streamed_items_come_one_by_one(world: World) -> None:
    async with world.serving("qbbb", Probe) as (_, caller):
        call(caller, 1, "count", 3, stream=True)
        await caller.next(Kind.HEAD, 1)
        assert [load_value((await caller.next(Kind.DATA, 1)).payload) for _ in range(3)] == [0, 1, 2]
        assert (await caller.next(Kind.DATA, 1)).flags & END


async def a_stream_waits_for_credit(world: World) -> None:
    async with world.serving("qccc", Probe) as (_, caller):
        call(caller, 1, "large_items", 100, stream=True)
        await caller.next(Kind.HEAD, 1)
        await caller.next(Kind.DATA, 1)
        assert await ask(caller, 2, "echo", 1) == 1  # which would come later than what needs no credit
        caller.channel.send(Kind.CREDIT, 1, encode_credit(STREAM_WINDOW_BYTES))
        await caller.next(Kind.DATA, 1)
        caller.channel.send(Kind.CANCEL, 1)
        assert await ask(caller, 3, "echo", 2) == 2


async def a_call_is_cancelled_by_word_or_by_hanging_up(world: World) -> None:
    async with world.serving("qddd", Probe) as (process, caller):
        call(caller, 1, "wait")
        assert await ask(caller, 2, "echo", 1) == 1
        caller.channel.send(Kind.CANCEL, 1)
        await until_cancelled(caller, 1)
        async with world.caller(process) as other:
            call(other, 1, "wait")
            assert await ask(other, 2, "echo", 1) == 1
        await until_cancelled(caller, 2)


async def until_cancelled(caller: Caller, times: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        stream = 100 * times
        while await ask(caller, stream, "times_cancelled") < times:
            stream += 1


async def deadlines_travel_as_what_remains(world: World) -> None:
    async with world.serving("qeee", Probe) as (_, caller):
        assert await ask(caller, 1, "remaining_s") is None
        assert 50.0 < await ask(caller, 2, "remaining_s", remaining_s=60.0) <= 60.0


async def context_variables_stay_where_they_are(world: World) -> None:
    mark.set("of the caller")
    async with world.serving("qfff", Probe) as (_, caller):
        assert await ask(caller, 1, "mark") == "unset"


async def models_are_told_to_those_who_are_there_and_those_who_come(world: World) -> None:
    async with world.serving("qggg", Probe) as (process, caller):
        call(caller, 1, "load", "m1")
        assert decode_models((await caller.next(Kind.MODELS)).meta) == ("m1",)
        assert load_value((await caller.next(Kind.RESPONSE, 1)).payload) == "m1"
        async with world.caller(process) as other:
            assert decode_models((await other.next(Kind.MODELS)).meta) == ("m1",)


async def metrics_reach_the_controller(world: World) -> None:
    async with world.serving("qhhh", Probe) as (process, caller):
        for stream in (1, 2, 3):
            await ask(caller, stream, "inc")
        tags = {"replica": process.replica_id}
        async with asyncio.timeout(WITHIN_S):
            while counted(world, "conformance_calls", tags) < 3:
                await asyncio.sleep(0.01)
        assert counted(world, "conformance_calls", tags) == 3


def counted(world: World, name: str, tags: dict[str, str]) -> float:
    series = [each for family in world.metrics.families() if family.name == name for each in family.series]
    return sum(each.value or 0.0 for each in series if tags.items() <= each.tags.items())


async def large_values_are_shared_and_let_go(world: World) -> None:
    async with world.serving("qiii", Probe) as (process, caller):
        array = np.arange(SHARED_FROM_BYTES, dtype=np.uint8)
        for stream in range(1, 6):
            payload = dump_value(((array,), {}), send_buffers=share)
            assert isinstance(payload, SharedPayload)
            caller.call(stream, CallMeta("echo", "id"), payload.data, shared=True)
            answer = await caller.next(Kind.RESPONSE, stream)
            assert answer.flags & SHARED
            received = load_shared(answer.payload)
            caller.channel.send(Kind.RELEASE, 0, release_of(answer.payload))
            payload.close()
            assert np.array_equal(received, array)
            assert not np.shares_memory(received, array)
        assert await ask(caller, 9, "echo", 1) == 1
        assert process in await world.running()


async def who_calls_what_is_killed_is_told(world: World) -> None:
    async with world.serving("qjjj", Probe) as (process, caller):
        call(caller, 1, "wait")
        assert await ask(caller, 2, "echo", 1) == 1
        world.engine.kill(process.replica_id)
        async with asyncio.timeout(WITHIN_S):
            await caller.lost.wait()
        event = await world.next_event()
        assert isinstance(event, Exited)


CALLS = (
    calls_are_answered_in_any_order,
    streamed_items_come_one_by_one,
    a_stream_waits_for_credit,
    a_call_is_cancelled_by_word_or_by_hanging_up,
    deadlines_travel_as_what_remains,
    context_variables_stay_where_they_are,
    models_are_told_to_those_who_are_there_and_those_who_come,
    metrics_reach_the_controller,
    large_values_are_shared_and_let_go,
    who_calls_what_is_killed_is_told,
)
