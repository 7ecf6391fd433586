"""What a dead replica had been sent: who may be sent again, how often, and within which budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import pytest
from msgspec.structs import replace

from salver.data.routing.replica_link import Exchange
from salver.data.routing.retry_budget import send_again
from salver.data.routing.router import Router
from salver.errors import BackPressureError
from salver.wire.snapshot import ReplicaRoute

from .scene import RecordedCall, Scene, deployment_route, run


def list_replicas(router: Router, *routes: ReplicaRoute, capacity: int = 1, unavailable: str = "") -> None:
    """A snapshot of an idempotent deployment."""
    router.update(replace(deployment_route(*routes, capacity=capacity, unavailable=unavailable), idempotent=True))


async def connected(router: Router, replicas: int = 1) -> None:
    while len(router.replica_ids()) < replicas:
        await asyncio.sleep(0.001)


def submit(router: Router, label: object = None, *, retryable: bool = True) -> RecordedCall:
    call = RecordedCall("work", label)
    call.retryable = retryable
    router.submit(call)
    return call


async def failure(call: RecordedCall) -> BaseException | None:
    await asyncio.wait({call.outcome})
    return call.outcome.exception()


# --- on the wire ----------------------------------------------------------------------------------------


def test_what_an_idempotent_deployment_was_running_runs_again_elsewhere() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (doomed, doomed_gate), (other, gate) = [await scene.gated_replica(capacity=5) for _ in range(2)]
            router = scene.router()
            list_replicas(router, doomed.route, capacity=5)
            await connected(router)
            calls = [submit(router, number) for number in range(5)]
            waiting = submit(router, "waiting")
            for _ in calls:
                await doomed_gate.entered.get()
            await doomed.die()
            list_replicas(router, other.route, capacity=5)
            gate.open(6)
            assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(5))
            assert await waiting.outcome == "waiting"
            assert [call.attempts for call in calls] == [2] * 5
            assert waiting.attempts == 1
            assert calls[0].dispatched == [doomed.route.replica_id, other.route.replica_id]

    run(test())


def test_requests_sent_again_go_before_those_that_wait_and_keep_their_order() -> None:
    async def test() -> None:
        async with Scene() as scene:
            doomed, doomed_gate = await scene.gated_replica(capacity=3)
            router = scene.router()
            list_replicas(router, doomed.route, capacity=3)
            await connected(router)
            calls = [submit(router, number) for number in range(5)]
            for _ in range(3):
                await doomed_gate.entered.get()
            await doomed.die()
            other, gate = await scene.gated_replica(capacity=1)
            list_replicas(router, other.route, capacity=1)
            gate.open(5)
            await asyncio.gather(*(call.outcome for call in calls))
            assert gate.left == [0, 1, 2, 3, 4]

    run(test())


def test_what_cannot_be_sent_again_fails() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            router = scene.router()
            list_replicas(router, replica.route, capacity=2)
            await connected(router)
            streaming, whole = submit(router, retryable=False), submit(router)
            await gate.entered.get()
            await gate.entered.get()
            await replica.die()
            assert isinstance(await failure(streaming), ConnectionError)
            assert not whole.outcome.done()
            assert router.queued == 1
            whole.abandoned = True

    run(test())


def test_a_request_that_kills_its_replicas_is_sent_three_times() -> None:
    async def test() -> None:
        async with Scene() as scene:
            router = scene.router()
            poison: RecordedCall | None = None
            for _ in range(3):
                replica, gate = await scene.gated_replica()
                list_replicas(router, replica.route)
                poison = poison or submit(router)
                await gate.entered.get()
                await replica.die()
            assert poison is not None
            assert isinstance(await failure(poison), ConnectionError)
            assert poison.attempts == 3
            assert len(set(poison.dispatched)) == 3

    run(test())


def test_nothing_waits_for_a_deployment_that_is_gone() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router()
            list_replicas(router, replica.route)
            await connected(router)
            call = submit(router)
            await gate.entered.get()
            list_replicas(router, unavailable="It failed.")
            await replica.die()
            assert isinstance(await failure(call), ConnectionError)

    run(test())


def test_an_answer_of_busy_is_no_attempt() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder = await scene.peer(replica)
            holder.call(1)
            await gate.entered.get()
            router = scene.router(replica.route, with_board=False)
            await connected(router)
            call = submit(router, "patient")
            while not router.queued:
                await asyncio.sleep(0.001)
            assert (call.attempts, len(call.dispatched)) == (0, 1)
            gate.open(2)
            assert await call.outcome == "patient"
            assert (call.attempts, len(call.dispatched)) == (1, 2)

    run(test())


def test_when_everything_dies_at_once_only_a_share_is_sent_again() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            from .scene import Gated

            replicas = [await scene.replica(Gated, name) for _ in range(30)]
            router = scene.router()
            list_replicas(router, *(replica.route for replica in replicas))
            await connected(router, 30)
            calls = [submit(router) for _ in range(30)]
            for _ in calls:
                await gate.entered.get()
            for replica in replicas:
                await replica.die()
            while router.replica_ids() or sum(call.outcome.done() for call in calls) + router.queued < 30:
                await asyncio.sleep(0.001)
            assert 3 <= router.queued <= 6, "at most 20 % of 30"
            assert all(isinstance(call.outcome.exception(), ConnectionError) for call in calls if call.outcome.done())
            for call in calls:
                call.abandoned = True

    run(test())


def test_back_pressure_says_what_the_deployment_wants_http_clients_to_hear() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router()
            route = deployment_route(replica.route, max_queued=1)
            router.update(replace(route, backpressure_status=429, retry_after_s=2.5))
            await connected(router)
            running, waiting = submit(router), submit(router)
            error = submit(router).outcome.exception()
            assert isinstance(error, BackPressureError)
            assert (error.status_code, error.retry_after_s) == (429, 2.5)
            assert (error.num_queued_requests, error.max_queued_requests) == (1, 1)
            gate.open(2)
            await asyncio.gather(running.outcome, waiting.outcome)

    run(test())


# --- the budget -----------------------------------------------------------------------------------------


@dataclass
class Sent:
    """As much of an ``Exchange`` as the budget looks at."""

    attempts: int = 1
    retryable: bool = True


def allowed(lost: Sequence[Sent], running: Sequence[Sent] = (), queued: Sequence[Sent] = (), slots: int = 1) -> int:
    as_exchanges = [cast("list[Exchange]", list(group)) for group in (lost, running, queued)]
    again = send_again(*as_exchanges, replica_slots=slots)
    assert again == [each for each in lost if each.retryable and each.attempts < 3][: len(again)]
    return len(again)


@pytest.mark.parametrize(
    ("lost", "running", "slots", "again"),
    [
        (1, 0, 1, 1),
        (5, 0, 1, 3),  # never fewer than three
        (5, 5, 5, 5),  # never fewer than one replica runs
        (7, 7, 5, 5),
        (20, 80, 5, 20),  # a fifth of what is in flight
        (40, 60, 5, 20),
        (100, 0, 5, 20),
    ],
)
def test_the_budget(lost: int, running: int, slots: int, again: int) -> None:
    assert allowed([Sent()] * lost, [Sent()] * running, slots=slots) == again


def test_requests_that_wait_are_in_flight() -> None:
    assert allowed([Sent()] * 20, queued=[Sent(0)] * 80) == 20


def test_those_on_their_second_try_use_up_the_budget() -> None:
    assert allowed([Sent()] * 5, [Sent(2)] * 2) == 1
    assert allowed([Sent()] * 5, queued=[Sent(1)] * 2) == 1
    assert allowed([Sent()] * 5, [Sent(2)], [Sent(1)] * 2) == 0
    assert allowed([Sent()] * 5, [Sent(2)] * 50) == 0
    assert allowed([Sent(2)] * 3) == 3, "the lost ones themselves use up nothing until they are sent"


def test_what_may_not_be_sent_again_uses_up_nothing() -> None:
    assert allowed([Sent(3)] * 10 + [Sent(retryable=False)] * 10 + [Sent()] * 3) == 3
