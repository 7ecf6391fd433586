"""Routers against real replicas over real sockets: who gets a request, who waits, and what breaks with what."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

import pytest

from salver.data.routing import replica_link as link_module
from salver.data.routing.router import Router
from salver.errors import BackPressureError, DeploymentUnavailableError
from salver.wire.frames import Kind
from salver.wire.snapshot import ReplicaRoute

from .scene import Gate, RecordedCall, RunningReplica, Scene, deployment_route, run, submit, turns


class Worker:
    """Gives way to others while it works, and counts who is inside with it."""

    def __init__(self, gate: str) -> None:
        from .scene import GATES

        self.gate = GATES[gate]

    async def work(self, label: object) -> object:
        gate = self.gate
        gate.running += 1
        gate.most = max(gate.most, gate.running)
        await turns(3)
        gate.running -= 1
        gate.left.append(label)
        return label


async def workers(scene: Scene, count: int, capacity: int) -> tuple[list[RunningReplica], Gate]:
    name, gate = scene.gate()
    return [await scene.replica(Worker, name, capacity=capacity) for _ in range(count)], gate


async def connected(router: Router, replicas: int = 1) -> None:
    """Wait until the router has dialled so many replicas."""
    while len(router.replica_ids()) < replicas:
        await asyncio.sleep(0.001)


async def queued(router: Router, count: int) -> None:
    while router.queued != count:
        await asyncio.sleep(0.001)


# --- many callers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_board", [True, False])
@pytest.mark.parametrize("capacity", [1, 3])
def test_three_callers_never_exceed_the_slots_and_all_are_served(capacity: int, with_board: bool) -> None:
    async def test() -> None:
        async with Scene() as scene:
            [replica], gate = await workers(scene, 1, capacity)
            routers = [scene.router(replica.route, capacity=capacity, with_board=with_board) for _ in range(3)]
            calls = [submit(routers[number % 3], "work", number) for number in range(200)]
            assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(200))
            assert gate.most == capacity
            assert replica.load == 0
            assert all(router.queued == 0 for router in routers)

    run(test())


def test_callers_share_a_busy_replica_evenly() -> None:
    async def test() -> None:
        async with Scene() as scene:
            [replica], gate = await workers(scene, 1, 1)
            routers = [scene.router(replica.route) for _ in range(3)]
            for router in routers:
                await connected(router)
            calls = [submit(router, "work", caller) for caller, router in enumerate(routers) for _ in range(60)]
            await asyncio.gather(*(call.outcome for call in calls))
            share = Counter(gate.left[:90])
            assert min(share.values()) >= 25, f"of the first 90 of 180: {share}"

    run(test())


def test_a_caller_keeps_the_order_of_its_requests() -> None:
    async def test() -> None:
        async with Scene() as scene:
            [replica], gate = await workers(scene, 1, 1)
            router = scene.router(replica.route)
            calls = [submit(router, "work", number) for number in range(30)]
            await asyncio.gather(*(call.outcome for call in calls))
            assert gate.left == list(range(30))

    run(test())


# --- waiting for a slot ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_board", [True, False])
def test_waiting_costs_one_question_and_one_answer(with_board: bool) -> None:
    """With the board a caller sees that all slots are taken and says WAIT; without it, it hears BUSY."""

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            other = scene.router(replica.route)
            holding = submit(other, "work", "other")
            await gate.entered.get()
            tap = await scene.tap(replica)
            route = ReplicaRoute(replica.route.replica_id, tap.address, replica.slot)
            router = scene.router(route, with_board=with_board)
            await connected(router)
            call = submit(router, "work", "mine")
            asked = Kind.WAIT if with_board else Kind.CALL
            while asked not in tap.to_replica:
                await asyncio.sleep(0.001)
            await replica.control.nothing_more()
            gate.open(2)
            assert await call.outcome == "mine"
            assert await holding.outcome == "other"
            before = [Kind.WAIT] if with_board else [Kind.CALL]
            answers = [] if with_board else [Kind.BUSY]
            assert tap.to_replica == [Kind.HELLO, *before, Kind.CALL]
            assert tap.to_caller == [Kind.SLOTS, *answers, Kind.READY, Kind.RESPONSE]

    run(test())


def test_a_slot_offered_to_a_caller_with_nothing_to_send_goes_on() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder = await scene.peer(replica)
            holder.call(1)
            await gate.entered.get()
            tap = await scene.tap(replica)
            first = scene.router(ReplicaRoute(replica.route.replica_id, tap.address, replica.slot))
            await connected(first)
            given_up = submit(first)
            while Kind.WAIT not in tap.to_replica:
                await asyncio.sleep(0.001)
            await replica.control.nothing_more()
            second = scene.router(replica.route)
            await connected(second)
            call = submit(second, "work", "second")
            await replica.control.nothing_more()
            given_up.abandoned = True
            gate.open(2)
            assert await call.outcome == "second"
            assert Kind.DECLINE in tap.to_replica
            assert not given_up.outcome.done()
            assert given_up.dispatched == []

    run(test())


def test_a_caller_that_dies_with_a_reservation_does_not_hold_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salver.data.replica.slots._RESERVED_FOR_S", 1000.0)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            doomed = await scene.peer(replica)
            doomed.send(Kind.WAIT)
            await doomed.next(Kind.READY)
            router = scene.router(replica.route, with_board=False)
            call = submit(router, "work", "survivor")
            await queued(router, 1)
            doomed.hang_up()
            gate.open()
            assert await call.outcome == "survivor"

    run(test())


# --- choosing -------------------------------------------------------------------------------------------


def test_idle_replicas_are_used_in_turn() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, _ = await workers(scene, 4, 5)
            router = scene.router(*(replica.route for replica in replicas), capacity=5)
            await connected(router, 4)
            calls = []
            for number in range(40):
                calls.append(submit(router, "work", number))
                await calls[-1].outcome
            share = Counter(call.dispatched[0] for call in calls)
            assert set(share.values()) == {10}, share

    run(test())


def test_the_replica_with_the_fewest_requests_gets_the_next() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            from .scene import Gated

            replicas = [await scene.replica(Gated, name, capacity=4) for _ in range(3)]
            router = scene.router(*(replica.route for replica in replicas), capacity=4)
            await connected(router, 3)
            calls = [submit(router) for _ in range(9)]
            for _ in calls:
                await gate.entered.get()
            assert [replica.load for replica in replicas] == [3, 3, 3]
            gate.open(9)
            await asyncio.gather(*(call.outcome for call in calls))

    run(test())


def test_more_than_sixteen_replicas_are_all_used_up_before_anything_waits() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            from .scene import Gated

            replicas = [await scene.replica(Gated, name) for _ in range(20)]
            router = scene.router(*(replica.route for replica in replicas))
            await connected(router, 20)
            calls = [submit(router) for _ in range(20)]
            assert router.queued == 0
            late = submit(router)
            assert router.queued == 1
            gate.open(21)
            await asyncio.gather(*(call.outcome for call in [*calls, late]))
            assert max(Counter(call.dispatched[0] for call in calls).values()) == 1

    run(test())


def test_a_replica_that_others_occupy_is_not_chosen() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (busy, busy_gate), (free, free_gate) = await scene.gated_replica(), await scene.gated_replica()
            holder = await scene.peer(busy)
            holder.call(1)
            await busy_gate.entered.get()
            router = scene.router(busy.route, free.route)
            await connected(router, 2)
            free_gate.open(5)
            for _ in range(5):
                call = submit(router)
                await call.outcome
                assert call.dispatched == [free.route.replica_id], "asked the board, not the busy replica"

    run(test())


def test_busy_sends_the_request_to_another_replica() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (busy, busy_gate), (free, free_gate) = await scene.gated_replica(), await scene.gated_replica()
            holder = await scene.peer(busy)
            holder.call(1)
            await busy_gate.entered.get()
            router = scene.router(busy.route, with_board=False)
            await connected(router)
            call = submit(router)
            await queued(router, 0)
            router.update(deployment_route(busy.route, free.route))
            free_gate.open()
            await call.outcome
            assert call.dispatched == [busy.route.replica_id, free.route.replica_id]

    run(test())


# --- limits ---------------------------------------------------------------------------------------------


def test_the_queue_has_its_limit() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route, max_queued=2)
            await connected(router)
            calls = [submit(router, "work", number) for number in range(3)]
            assert router.queued == 2
            refused = submit(router)
            error = refused.outcome.exception()
            assert isinstance(error, BackPressureError)
            assert (error.num_queued_requests, error.max_queued_requests) == (2, 2)
            calls[1].abandoned = True
            accepted = submit(router, "work", "accepted")
            assert not accepted.outcome.done(), "an abandoned request takes no place in the queue"
            gate.open(4)
            assert await calls[0].outcome == 0
            assert await calls[2].outcome == 2
            assert await accepted.outcome == "accepted"
            assert calls[1].dispatched == []

    run(test())


def test_a_limit_of_zero_refuses_whatever_would_wait() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route, max_queued=0)
            await connected(router)
            call = submit(router)
            assert isinstance(submit(router).outcome.exception(), BackPressureError)
            gate.open()
            await call.outcome

    run(test())


def test_a_request_answered_busy_waits_even_when_the_queue_may_hold_nothing() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder = await scene.peer(replica)
            holder.call(1)
            await gate.entered.get()
            router = scene.router(replica.route, max_queued=0, with_board=False)
            await connected(router)
            call = submit(router, "work", "patient")
            await queued(router, 1)
            gate.open(2)
            assert await call.outcome == "patient"

    run(test())


def test_a_cancelled_request_frees_its_slot_for_the_next() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            first, second = submit(router, "work", "first"), submit(router, "work", "second")
            assert await gate.entered.get() == "first"
            assert first.link is not None
            first.link.cancel(first.stream)
            first.link.cancel(first.stream)
            assert await gate.entered.get() == "second"
            gate.open()
            assert await second.outcome == "second"
            assert not first.outcome.done()

    run(test())


# --- what breaks ----------------------------------------------------------------------------------------


def test_a_lost_replica_fails_what_it_ran_and_nothing_else() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            router = scene.router(replica.route, capacity=2)
            await connected(router)
            running = [submit(router), submit(router)]
            waiting = [submit(router, "work", number) for number in range(3)]
            for _ in running:
                await gate.entered.get()
            await replica.die()
            for call in running:
                assert isinstance(await asyncio.wait_for(asyncio.shield(_settled(call)), 20), ConnectionError)
            assert router.queued == 3
            successor, gate = await scene.gated_replica(capacity=2)
            router.update(deployment_route(successor.route, capacity=2))
            gate.open(3)
            assert await asyncio.gather(*(call.outcome for call in waiting)) == [0, 1, 2]

    run(test())


async def _settled(call: RecordedCall) -> BaseException | None:
    await asyncio.wait({call.outcome})
    return call.outcome.exception()


def test_a_cut_connection_is_dialled_again_while_the_replica_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_REDIAL_FIRST_S", 0.001)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            tap = await scene.tap(replica)
            router = scene.router(ReplicaRoute(replica.route.replica_id, tap.address, replica.slot))
            await connected(router)
            doomed, waiting = submit(router, "work", "doomed"), submit(router, "work", "waiting")
            await gate.entered.get()
            tap.cut()
            assert isinstance(await _settled(doomed), ConnectionError)
            assert await gate.entered.get() == "waiting"
            gate.open()
            assert await waiting.outcome == "waiting"
            assert gate.left == ["doomed", "waiting"], "the replica cancelled what nobody waits for"

    run(test())


def test_requests_wait_for_a_replica_that_cannot_be_dialled_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_REDIAL_FIRST_S", 0.001)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            hidden = replica.path.rename(scene.folder / "hidden")
            router = scene.router(replica.route)
            call = submit(router, "work", "late")
            await turns(50)
            assert not router.has_replicas
            assert router.queued == 1
            hidden.rename(replica.path)
            gate.open()
            assert await call.outcome == "late"

    run(test())


def test_a_replica_that_is_no_longer_listed_is_not_dialled_any_more() -> None:
    async def test() -> None:
        async with Scene() as scene:
            router = scene.router(ReplicaRoute("app#d#1", f"unix:{scene.folder}/nobody", 1))
            call = submit(router)
            router.update(deployment_route(unavailable="it failed to deploy: ValueError"))
            error = call.outcome.exception()
            assert isinstance(error, DeploymentUnavailableError)
            assert "it failed to deploy: ValueError" in str(error)
            assert isinstance(submit(router).outcome.exception(), DeploymentUnavailableError)

    run(test())


def test_a_deleted_deployment_refuses_what_waits_and_finishes_what_runs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            router = scene.router(replica.route)
            await connected(router)
            running, waiting, abandoned = submit(router, "work", "runs"), submit(router), submit(router)
            abandoned.abandoned = True
            await gate.entered.get()
            router.update(None)
            assert isinstance(waiting.outcome.exception(), DeploymentUnavailableError)
            assert not abandoned.outcome.done()
            gate.open()
            assert await running.outcome == "runs"

    run(test())


def test_a_deployment_without_replicas_that_may_come_back_keeps_requests_waiting() -> None:
    async def test() -> None:
        async with Scene() as scene:
            router = scene.router()
            call = submit(router, "work", "patient")
            assert router.queued == 1
            replica, gate = await scene.gated_replica()
            router.update(deployment_route(replica.route))
            gate.open()
            assert await call.outcome == "patient"

    run(test())


# --- leaving --------------------------------------------------------------------------------------------


def test_a_replica_drains_under_load_without_losing_a_request() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (leaving, staying), _ = await workers(scene, 2, 3)
            routers = [scene.router(leaving.route, staying.route, capacity=3) for _ in range(2)]
            for router in routers:
                await connected(router, 2)
            calls: list[RecordedCall] = []

            async def load(router: Router) -> None:
                for number in range(40):
                    burst = [submit(router, "work", number) for _ in range(5)]
                    calls.extend(burst)
                    await burst[0].outcome
                    if number == 10:
                        leaving.drain()

            await asyncio.gather(*(load(router) for router in routers))
            await asyncio.gather(*(call.outcome for call in calls))
            assert len(calls) == 400
            await leaving.replica.drained.wait()
            assert leaving.load == 0
            used = Counter(call.dispatched[-1] for call in calls)
            assert used[leaving.route.replica_id] >= 10
            assert used[staying.route.replica_id] >= 200

    run(test())


def test_a_drained_replica_that_is_still_listed_gets_nothing_more() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (leaving, leaving_gate), (staying, gate) = await scene.gated_replica(), await scene.gated_replica()
            other = await scene.peer(leaving)
            other.call(1)
            await leaving_gate.entered.get()
            router = scene.router(leaving.route, staying.route)
            await connected(router, 2)
            leaving.drain()
            await other.next(Kind.GOAWAY)
            while len(router.replica_ids()) > 1:
                await asyncio.sleep(0.001)
            router.update(deployment_route(leaving.route, staying.route))  # a snapshot from before the drain
            gate.open(10)
            calls = [submit(router, "work", number) for number in range(10)]
            assert await asyncio.gather(*(call.outcome for call in calls)) == list(range(10))
            leaving_gate.open()
            await other.answer(1)
            other.hang_up()
            await leaving.replica.drained.wait()

    run(test())


def test_a_replica_taken_off_the_list_finishes_and_is_hung_up_on() -> None:
    async def test() -> None:
        async with Scene() as scene:
            (old, old_gate), (new, new_gate) = await scene.gated_replica(), await scene.gated_replica()
            router = scene.router(old.route)
            await connected(router)
            running, waiting = submit(router, "work", "old"), submit(router, "work", "new")
            await old_gate.entered.get()
            router.update(deployment_route(new.route))
            new_gate.open()
            assert await waiting.outcome == "new"
            old.drain()
            old_gate.open()
            assert await running.outcome == "old"
            await old.replica.drained.wait()

    run(test())


def test_close_may_be_called_twice_and_cancels_dialling() -> None:
    async def test() -> None:
        async with Scene() as scene:
            router = scene.router(ReplicaRoute("app#d#1", f"unix:{scene.folder}/nobody", 1))
            call = submit(router)
            router.close()
            router.close()
            assert isinstance(call.outcome.exception(), DeploymentUnavailableError)

    run(test())


def test_a_router_without_a_board_goes_by_its_own_counts() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            scene.board.cells[replica.slot] = 99
            router = scene.router(replica.route, with_board=False)
            gate.open()
            assert await submit(router, "work", 1).outcome == 1

    run(test())


class HangsUp(asyncio.Protocol):
    """A process that accepts and dies."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def test_a_replica_that_hangs_up_at_once_gets_no_request_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_REDIAL_FIRST_S", 0.001)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            attempts = iter(range(1000))
            path = f"{scene.folder}/flaky"
            server = await asyncio.get_running_loop().create_unix_server(
                lambda: HangsUp() if next(attempts) < 12 else replica.replica.accept(), path
            )
            router = scene.router(ReplicaRoute(replica.route.replica_id, f"unix:{path}", replica.slot))
            calls = [submit(router, "work", number) for number in range(5)]
            gate.open(5)
            served = 0
            for call in calls:
                served += await _settled(call) is None
            while not served:  # what was sent to a connection that broke has failed: try again, as a caller would
                served += await _settled(submit(router)) is None
            server.close()

    run(test())
