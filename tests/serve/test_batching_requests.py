"""A batch and the requests in it: who leaves, whose time is up, whose model it is, whose item is poisonous."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import pytest

from salver.data.context import ReplicaIdentity, RequestContext, replica_identity, request_context
from salver.data.replica.draining import announce_drain
from salver.errors import RequestTimeoutError
from salver.serve.batching.decorator import batch
from salver.serve.batching.queue import _queues
from salver.serve.exceptions import RayServeException
from salver.telemetry.metrics import registry

from .batching_scene import NEVER_S, Held, requested, run, turns


@pytest.fixture(autouse=True)
def no_queue_is_left() -> Generator[None]:
    yield
    assert not _queues


# --- cancelled ------------------------------------------------------------------------------------------


def test_who_leaves_while_waiting_is_not_executed() -> None:
    async def test() -> None:
        held = Held(max_batch_size=3, batch_wait_timeout_s=NEVER_S)
        calls = [held.start(number) for number in range(2)]
        await turns()
        calls[0].cancel()
        await turns()
        calls += [held.start(number) for number in (2, 3)]
        assert await held.batches.get() == [1, 2, 3]
        held.release()
        assert await asyncio.gather(*calls[1:]) == [1, 2, 3]
        assert calls[0].cancelled()

    run(test())


def test_who_leaves_in_the_turn_in_which_the_batch_closes_is_not_executed_either() -> None:
    async def test() -> None:
        held = Held(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        leaving, staying = held.start(1), held.start(2)
        await asyncio.sleep(0)
        leaving.cancel()
        assert await held.batches.get() == [2]
        held.release()
        assert await staying == 2

    run(test())


def test_a_queue_whose_callers_all_leave_is_gone() -> None:
    async def test() -> None:
        held = Held(max_batch_size=3, batch_wait_timeout_s=NEVER_S)
        calls = [held.start(number) for number in range(2)]
        await turns()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await turns()
        assert not _queues

    run(test())


def test_a_batch_goes_on_for_those_who_stay_and_ends_with_the_last_of_them() -> None:
    async def test() -> None:
        held = Held(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        calls = [held.start(number) for number in range(2)]
        await held.batches.get()
        calls[0].cancel()
        await turns()
        assert (held.running, held.cancelled) == (1, 0)
        calls[1].cancel()
        await asyncio.wait(calls)
        await turns()
        assert (held.running, held.cancelled) == (0, 1)
        again = [held.start(number) for number in range(2)]  # the slot is free
        await held.batches.get()
        held.release()
        assert await asyncio.gather(*again) == [0, 1]

    run(test())


def test_code_that_cancels_itself_cancels_its_callers() -> None:
    @batch(max_batch_size=2)
    async def giving_up(items: list[int]) -> list[int]:
        raise asyncio.CancelledError

    async def test() -> None:
        calls = [asyncio.create_task(giving_up(number)) for number in range(2)]
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)

    run(test())


# --- deadlines ------------------------------------------------------------------------------------------


def test_a_deadline_closes_a_batch_early() -> None:
    async def test() -> None:
        held = Held(max_batch_size=3, batch_wait_timeout_s=NEVER_S)
        held.release()
        patient = held.start("patient")
        hurried = held.start("hurried", deadline=time.monotonic() + 4)
        called = time.monotonic()
        assert await asyncio.gather(patient, hurried) == ["patient", "hurried"]
        assert time.monotonic() - called > 1.9
        assert held.reasons == ["deadline"]

    run(test())


def test_a_call_whose_deadline_has_passed_is_not_executed() -> None:
    async def test() -> None:
        held = Held(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
        late = held.start(0, deadline=time.monotonic() - 1, request_id="the late one")
        with pytest.raises(RequestTimeoutError, match="Request the late one timed out"):
            await late
        assert held.batches.empty()

    run(test())


def test_a_deadline_that_passes_behind_a_running_batch() -> None:
    async def test() -> None:
        held = Held(max_batch_size=1, batch_wait_timeout_s=NEVER_S)
        first = held.start(0)
        await held.batches.get()
        late, patient = held.start(1, deadline=time.monotonic() + 0.2), held.start(2)
        with pytest.raises(RequestTimeoutError):
            await late
        held.release(2)
        assert await held.batches.get() == [2]
        assert await asyncio.gather(first, patient) == [0, 2]

    run(test())


# --- context --------------------------------------------------------------------------------------------


def test_batches_are_of_one_model_and_know_it() -> None:
    async def test() -> None:
        held = Held(max_batch_size=2, batch_wait_timeout_s=NEVER_S, max_concurrent_batches=9)
        calls = [held.start(f"{model}{number}", multiplexed_model_id=model) for number in range(2) for model in "xyz"]
        batches = [await held.batches.get() for _ in range(3)]
        assert batches == [["x0", "x1"], ["y0", "y1"], ["z0", "z1"]]
        assert [context.multiplexed_model_id for context in held.contexts] == ["x", "y", "z"]
        held.release(3)
        await asyncio.gather(*calls)

    run(test())


def test_a_batch_works_for_what_its_requests_agree_on() -> None:
    first = {"route": "/a", "request_id": "1", "app_name": "app", "session_id": "s", "is_http_request": True}
    later, latest = time.monotonic() + 1000, time.monotonic() + 2000

    async def context_of(*requests: dict[str, Any]) -> RequestContext:
        held = Held(max_batch_size=len(requests), batch_wait_timeout_s=NEVER_S)
        held.release()
        await asyncio.gather(*(held.start(0, **request) for request in requests))
        return held.contexts[0]

    async def test() -> None:
        assert await context_of(first) == RequestContext(**first)
        assert await context_of(first, first) == RequestContext(**{**first, "is_http_request": False})
        assert await context_of(
            first | {"deadline": later}, {"request_id": "2", "app_name": "app"}
        ) == RequestContext(app_name="app")
        other = first | {"request_id": "2", "deadline": latest}
        assert await context_of(first | {"deadline": later}, other) == RequestContext(
            route="/a", app_name="app", session_id="s", deadline=latest
        )

    run(test())


def test_callers_keep_their_own_context() -> None:
    async def test() -> None:
        held = Held(max_batch_size=1)
        held.release()
        request_context.set(RequestContext(request_id="mine"))
        await held.call(1)
        assert request_context.get().request_id == "mine"

    run(test())


# --- poison ---------------------------------------------------------------------------------------------


class Oven:
    """Bakes any item but the poisonous."""

    def __init__(self, *poisonous: int) -> None:
        self.poisonous = set(poisonous)
        self.baked: list[list[int]] = []

    @batch(max_batch_size=16, batch_wait_timeout_s=NEVER_S, isolate_errors=True)
    async def bake(self, items: list[int]) -> list[int]:
        self.baked.append(items)
        if bad := self.poisonous & set(items):
            raise ValueError(f"poison: {sorted(bad)}")
        return [-item for item in items]


@pytest.mark.parametrize("poisonous", [set[int](), {0}, {7}, {15}, {3, 4}, {0, 5, 10, 15}, set(range(16))])
def test_a_poisonous_item_fails_alone(poisonous: set[int]) -> None:
    async def test() -> None:
        oven = Oven(*poisonous)
        results = await asyncio.gather(*map(oven.bake, range(16)), return_exceptions=True)
        for item, result in enumerate(results):
            if item in poisonous:
                assert isinstance(result, ValueError)
                assert str(result) == f"poison: [{item}]"
            else:
                assert result == -item
        if len(poisonous) == 1:
            assert len(oven.baked) == 1 + 2 * 4
        (record,) = Oven.bake.recent_batches()[-1:]
        assert record.size == 16

    run(test())


def test_who_leaves_is_not_tried_again() -> None:
    held_back = asyncio.Event()

    @batch(max_batch_size=4, batch_wait_timeout_s=NEVER_S, isolate_errors=True)
    async def bake(items: list[int]) -> list[int]:
        if 0 in items:
            await held_back.wait()
            raise ValueError(f"{items}")
        return items

    async def test() -> None:
        calls = [asyncio.create_task(bake(number)) for number in range(4)]
        await turns()
        calls[1].cancel()
        await turns()
        held_back.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert repr(results) == "[ValueError('[0]'), CancelledError(''), 2, 3]"

    run(test())


def test_a_wrong_length_is_no_poison() -> None:
    calls = 0

    @batch(max_batch_size=4, isolate_errors=True)
    async def bake(items: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        return []

    async def test() -> None:
        results = await asyncio.gather(*map(bake, range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [RayServeException] * 4
        assert calls == 1

    run(test())


# --- draining and records -------------------------------------------------------------------------------


def test_a_replica_that_drains_closes_what_waits_in_it() -> None:
    async def test() -> None:
        held = Held(max_batch_size=3, batch_wait_timeout_s=NEVER_S)
        identity = ReplicaIdentity("app", "d", "leaving")

        async def call(replica: ReplicaIdentity, item: str) -> Any:
            replica_identity.set(replica)
            return await held.call(item)

        leaving = [asyncio.create_task(call(identity, item)) for item in "ab"]
        staying = asyncio.create_task(call(ReplicaIdentity("app", "d", "staying"), "c"))
        await turns()
        announce_drain("leaving")
        assert await held.batches.get() == ["a", "b"]
        held.release(2)
        assert await asyncio.gather(*leaving) == ["a", "b"]
        assert held.reasons == ["drained"]
        await turns()
        assert held.batches.empty()
        announce_drain("staying")
        assert await staying == "c"

    run(test())


def test_batches_are_recorded_and_counted() -> None:
    async def test() -> None:
        held = Held(max_batch_size=4, batch_wait_timeout_s=0)
        held.release()
        replica_identity.set(ReplicaIdentity("app", "d", "counted"))
        await asyncio.gather(*(held.call(number) for number in range(3)))
        await turns()
        (record,) = held.call.recent_batches()
        assert (record.function_name, record.size, record.reason) == ("held", 3, "timeout")
        assert (record.utilization, record.left_waiting) == (0.75, 0)
        assert 0 <= record.wait_s < 30
        assert 0 <= record.execution_s < 30

    run(test())
    families = {family.name: family for family in registry.snapshot()}
    labels = ("held", "d", "counted", "app")
    sums = {
        name: [series.values[0] for series in families[f"serve_{name}"].series if series.labels[:4] == labels]
        for name in ("batches_processed", "actual_batch_size", "batch_utilization_percent", "batch_queue_length")
    }
    assert sums == {
        "batches_processed": [1.0],
        "actual_batch_size": [3.0],
        "batch_utilization_percent": [75.0],
        "batch_queue_length": [0.0],
    }
    assert {"serve_batch_wait_time_ms", "serve_batch_execution_time_ms"} <= set(families)


def test_the_history_is_bounded() -> None:
    @batch(max_batch_size=1)
    async def echo(items: list[int]) -> list[int]:
        return items

    async def test() -> None:
        await asyncio.gather(*map(echo, range(300)))

    run(test())
    assert len(echo.recent_batches()) == 128


def test_a_request_in_a_request() -> None:
    """A batched function that calls another one waits for it in its batch, not in its own queue."""

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def inner(items: list[int]) -> list[int]:
        return [item + 1 for item in items]

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def outer(items: list[int]) -> list[int]:
        return await asyncio.gather(*map(inner, items))

    async def test() -> None:
        assert await asyncio.gather(*(requested(outer, number) for number in range(4))) == [1, 2, 3, 4]

    run(test())
