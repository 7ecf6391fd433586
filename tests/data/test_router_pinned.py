"""Requests for one replica alone, and reservations."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from salver.data.routing.reservation import Reservation
from salver.data.routing.router import Router
from salver.errors import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from salver.wire.frames import Kind
from salver.wire.snapshot import ReplicaRoute

from .scene import RecordedCall, Scene, deployment_route, run, submit


def submit_to(router: Router, replica_id: str, label: object = None) -> RecordedCall:
    call = RecordedCall("work", label)
    router.submit_to(replica_id, call)
    return call


def reserve(router: Router) -> Reservation:
    reservation = Reservation()
    router.reserve(reservation)
    return reservation


async def connected(router: Router, replicas: int = 1) -> None:
    while len(router.replica_ids()) < replicas:
        await asyncio.sleep(0.001)


async def failure(call: RecordedCall) -> BaseException | None:
    await asyncio.wait({call.outcome})
    return call.outcome.exception()


# --- one replica alone ----------------------------------------------------------------------------------


def test_a_request_goes_to_the_replica_that_it_names() -> None:
    async def test() -> None:
        async with Scene() as scene:
            gates = [await scene.gated_replica(capacity=5) for _ in range(3)]
            router = scene.router(*(replica.route for replica, _ in gates), capacity=5)
            await connected(router, 3)
            assert sorted(router.replica_ids()) == sorted(replica.route.replica_id for replica, _ in gates)
            named = gates[1][0].route.replica_id
            calls = [submit_to(router, named, number) for number in range(8)]
            for _ in range(5):
                await gates[1][1].entered.get()
            gates[1][1].open(8)
            assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(8))
            assert {each for call in calls for each in call.dispatched} == {named}
            assert gates[1][1].most == 5
            assert [call.attempts for call in calls] == [1] * 8

    run(test())


@pytest.mark.parametrize("with_board", [True, False])
def test_it_waits_for_that_replica_and_goes_before_what_waits_for_any(with_board: bool) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder = await scene.peer(replica)
            holder.call(1, "work", "holder")
            await gate.entered.get()
            router = scene.router(replica.route, with_board=with_board)
            await connected(router)
            anyone = submit(router, "work", "any")
            first, second = (submit_to(router, replica.route.replica_id, label) for label in ("first", "second"))
            while router.queued < 3:
                await asyncio.sleep(0.001)
            gate.open(4)
            await asyncio.gather(anyone.outcome, first.outcome, second.outcome)
            assert gate.left == ["holder", "first", "second", "any"]
            assert router.queued == 0

    run(test())


def test_it_waits_while_the_replica_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.data.routing.replica_link._REDIAL_FIRST_S", 0.001)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            hidden = replica.path.rename(scene.folder / "hidden")
            router = scene.router(replica.route, capacity=2)
            calls = [submit_to(router, replica.route.replica_id, number) for number in range(5)]
            assert router.queued == 5
            hidden.rename(replica.path)
            gate.open(5)
            assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(5))

    run(test())


def test_a_replica_that_is_gone_refuses() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            other, _ = await scene.gated_replica()
            router = scene.router(replica.route, other.route)
            await connected(router, 2)
            unknown = submit_to(router, "app#d#nobody")
            assert isinstance(unknown.outcome.exception(), ReplicaUnavailableError)
            assert "app#d#nobody" in str(unknown.outcome.exception())
            running, waiting = (submit_to(router, replica.route.replica_id, label) for label in ("runs", "waits"))
            given_up = submit_to(router, replica.route.replica_id)
            given_up.abandoned = True
            await gate.entered.get()
            replica.drain()
            error = await failure(waiting)
            assert isinstance(error, ReplicaUnavailableError)
            assert "died" not in str(error)
            assert isinstance(
                submit_to(router, replica.route.replica_id).outcome.exception(), ReplicaUnavailableError
            )
            gate.open()
            assert await running.outcome == "runs"
            assert not given_up.outcome.done()
            await replica.replica.drained.wait()

    run(test())


def test_a_replica_that_leaves_while_the_request_is_under_way_refuses() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            replica.replica.drain()
            call = submit_to(router, replica.route.replica_id)
            assert call.dispatched == [replica.route.replica_id], "the router has not heard of the drain"
            assert isinstance(await failure(call), ReplicaUnavailableError)
            assert call.attempts == 0
            await replica.replica.drained.wait()

    run(test())


def test_what_was_sent_is_lost_with_the_replica_even_where_others_are_sent_again() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            other, _ = await scene.gated_replica()
            router = scene.router()
            router.update(replace(deployment_route(replica.route, other.route), idempotent=True))
            await connected(router, 2)
            sent, waiting = (submit_to(router, replica.route.replica_id, label) for label in ("sent", "waits"))
            sent.retryable = True
            await gate.entered.get()
            await replica.die()
            assert isinstance(await failure(sent), ConnectionError)
            assert not waiting.outcome.done(), "the replica may live: only its connection broke"
            router.update(deployment_route(other.route))
            assert isinstance(await failure(waiting), ReplicaUnavailableError)

    run(test())


def test_the_limit_of_the_queue_counts_all_that_wait() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route, max_queued=2)
            await connected(router)
            running = submit(router)
            waiting = [submit(router), submit_to(router, replica.route.replica_id)]
            reserved = reserve(router)
            for outcome in (
                submit(router).outcome,
                submit_to(router, replica.route.replica_id).outcome,
                reserved.ready,
            ):
                error = outcome.exception()
                assert isinstance(error, BackPressureError)
                assert (error.num_queued_requests, error.max_queued_requests) == (2, 2)
            waiting[1].abandoned = True
            accepted = submit_to(router, replica.route.replica_id)
            assert not accepted.outcome.done()
            gate.open(3)
            await asyncio.gather(running.outcome, waiting[0].outcome, accepted.outcome)
            assert waiting[1].dispatched == []

    run(test())


# --- reservations ---------------------------------------------------------------------------------------


def test_a_reservation_takes_the_place_of_a_request_until_it_is_used() -> None:
    async def test() -> None:
        async with Scene() as scene:
            gates = [await scene.gated_replica() for _ in range(2)]
            router = scene.router(*(replica.route for replica, _ in gates))
            await connected(router, 2)
            reservation = reserve(router)
            chosen = await reservation.ready
            other = submit(router, "work", "other")
            assert other.dispatched != [chosen]
            waiting = submit(router, "work", "waiting")
            assert router.queued == 1
            call = RecordedCall("work", "used")
            reservation.use(call)
            assert (call.dispatched, call.attempts) == ([chosen], 1)
            for _, gate in gates:
                gate.open(3)
            assert await asyncio.gather(*(each.outcome for each in (call, other, waiting))) == [
                "used",
                "other",
                "waiting",
            ]
            reservation.release()
            with pytest.raises(RuntimeError, match="used once"):
                reservation.use(RecordedCall())

    run(test())


def test_a_reservation_that_is_released_leaves_its_place_to_the_next() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            reservation = reserve(router)
            await reservation.ready
            waiting = submit(router, "work", "waiting")
            assert waiting.dispatched == []
            reservation.release()
            reservation.release()
            gate.open()
            assert await waiting.outcome == "waiting"
            tap = await scene.tap(replica)
            tapped = scene.router(ReplicaRoute("tapped", tap.address, replica.slot))
            await connected(tapped)
            reservation = reserve(tapped)
            assert await reservation.ready == "tapped"
            reservation.release()
            while not tap.to_replica:
                await asyncio.sleep(0.001)
            tapped.close()
            await tap.stop()
            assert tap.to_replica == [Kind.HELLO], "a reservation is between this caller and itself"

    run(test())


def test_a_reservation_waits_in_the_queue_and_can_be_withdrawn_there() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            running = submit(router, "work", "runs")
            withdrawn, released, reservation = reserve(router), reserve(router), reserve(router)
            with pytest.raises(RuntimeError):
                reservation.use(RecordedCall())
            withdrawn.ready.cancel()
            released.release()
            gate.open()
            assert await running.outcome == "runs"
            assert await reservation.ready == replica.route.replica_id
            assert not released.ready.done()
            reservation.release()
            released.ready.cancel()
            assert router.queued == 0

    run(test())


def test_a_used_reservation_waits_at_a_replica_that_others_have_filled() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            other, _ = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            reservation = reserve(router)
            await reservation.ready
            router.update(deployment_route(replica.route, other.route))
            await connected(router, 2)
            holder = await scene.peer(replica)
            holder.call(1)
            await gate.entered.get()
            call = RecordedCall("work", "patient")
            reservation.use(call)
            while not router.queued:
                await asyncio.sleep(0.001)
            gate.open(2)
            assert await call.outcome == "patient"
            assert set(call.dispatched) == {replica.route.replica_id}
            assert call.attempts == 1

    run(test())


@pytest.mark.parametrize("how", ["dies", "drains", "is removed"])
def test_a_reservation_is_lost_with_its_replica(how: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            reservation = reserve(router)
            chosen = await reservation.ready
            if how == "dies":
                await replica.die()
            elif how == "drains":
                replica.drain()
                await replica.replica.drained.wait()
            else:
                router.update(deployment_route())
            while router.replica_ids():
                await asyncio.sleep(0.001)
            call = RecordedCall()
            reservation.use(call)
            error = call.outcome.exception()
            assert isinstance(error, ReplicaUnavailableError)
            assert chosen in str(error)
            reservation.release()

    run(test())


def test_a_slot_at_a_replica_that_was_taken_off_the_list_is_not_used() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            router = scene.router(replica.route, capacity=2)
            await connected(router)
            holder = await scene.peer(replica)
            holder.call(1)
            await gate.entered.get()
            running = submit(router, "work", "runs")
            await gate.entered.get()
            reservation = reserve(router)
            assert not reservation.ready.done()
            await replica.control.nothing_more()
            router.update(deployment_route(capacity=2))
            gate.open()
            await holder.answer(1)
            gate.open()
            assert await running.outcome == "runs"
            assert not reservation.ready.done()
            other, _ = await scene.gated_replica()
            router.update(deployment_route(other.route))
            assert await reservation.ready == other.route.replica_id
            reservation.release()

    run(test())


def test_a_reservation_for_what_is_unavailable_is_refused() -> None:
    async def test() -> None:
        async with Scene() as scene:
            router = scene.router()
            router.update(deployment_route(unavailable="It failed."))
            assert isinstance(reserve(router).ready.exception(), DeploymentUnavailableError)

    run(test())
