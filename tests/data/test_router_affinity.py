"""Requests with a model or a session: which replica they prefer, and what that may cost others."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from salver import serve
from salver.data.routing import replica_link as link_module
from salver.data.routing.router import Router
from salver.wire.frames import Kind
from salver.wire.snapshot import ReplicaRoute

from .scene import GATES, Gate, Gated, RecordedCall, RunningReplica, Scene, deployment_route, run, turns


class Multiplexed:
    """Loads two models at most; holds each request at its gate."""

    def __init__(self, gate: str) -> None:
        self.gate = GATES[gate]

    @serve.multiplexed(max_num_models_per_replica=2)
    async def load(self, model_id: str) -> str:
        return model_id

    async def work(self, model_id: str) -> str:
        model = await self.load(model_id)
        await self.gate.hold(model)
        return model

    async def plain(self, label: object) -> object:
        return await self.gate.hold(label)


class Loaded:
    """Some replicas of ``Multiplexed`` with a gate for all, and routers to them."""

    def __init__(self, scene: Scene, replicas: list[RunningReplica], gate: Gate) -> None:
        self.scene = scene
        self.replicas = replicas
        self.ids = [replica.route.replica_id for replica in replicas]
        self.gate = gate

    async def router(self) -> Router:
        capacity = self.replicas[0].replica._slots._capacity
        router = self.scene.router(*(replica.route for replica in self.replicas), capacity=capacity)
        while len(router.replica_ids()) < len(self.replicas):
            await asyncio.sleep(0.001)
        return router


async def multiplexed(scene: Scene, count: int, capacity: int = 1) -> Loaded:
    name, gate = scene.gate()
    return Loaded(scene, [await scene.replica(Multiplexed, name, capacity=capacity) for _ in range(count)], gate)


def submit(router: Router, model_id: str = "", *, session_id: str = "", method: str = "work") -> RecordedCall:
    call = RecordedCall(method, model_id or session_id)
    call.model_id, call.session_id = model_id, session_id
    router.submit(call)
    return call


async def served(router: Router, gate: Gate, model_id: str = "", **more: str) -> str:
    """A request from beginning to end; where it ran."""
    call = submit(router, model_id, **more)
    gate.open()
    await call.outcome
    return call.dispatched[-1]


def models(router: Router) -> dict[str, set[str]]:
    return {replica_id: link.models for replica_id, link in router._links.items()}


# --- models ---------------------------------------------------------------------------------------------


def test_a_model_stays_where_it_is_loaded_and_models_spread() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 3)
            router = await loaded.router()
            first = {model: await served(router, loaded.gate, model) for model in "abc"}
            assert sorted(first.values()) == sorted(loaded.ids), "each on the replica with the fewest models"
            for model in "abcabcaabbcc":
                assert await served(router, loaded.gate, model) == first[model]

    run(test())


def test_requests_without_a_model_are_spread_as_ever() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 3)
            router = await loaded.router()
            await served(router, loaded.gate, "a")
            ran = Counter([await served(router, loaded.gate, method="plain") for _ in range(30)])
            assert set(ran.values()) == {10}, ran

    run(test())


def test_callers_that_know_nothing_agree_on_the_replica() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replicas = [await scene.replica(Gated, name) for _ in range(4)]  # it loads nothing, and says nothing
            routers = [scene.router(*(each.route for each in order)) for order in (replicas, replicas[::-1])]
            chosen: list[list[str]] = []
            for router in routers:
                while len(router.replica_ids()) < 4:
                    await asyncio.sleep(0.001)
                chosen.append([await served(router, gate, f"model-{number}") for number in range(12)])
            assert chosen[0] == chosen[1]
            assert set(Counter(chosen[0]).values()) == {3}, "no replica is expected to hold more than another"

    run(test())


def test_a_new_caller_is_told_who_holds_what() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 3)
            router = await loaded.router()
            for _ in range(2):  # the second round is on top of what the hash chose: newcomers cannot guess it
                where = {model: await served(router, loaded.gate, model) for model in "abcdef"}
            tap = await scene.tap(loaded.replicas[0])
            watched = scene.router(ReplicaRoute(loaded.ids[0], tap.address, loaded.replicas[0].slot))
            while Kind.MODELS not in tap.to_caller:
                await asyncio.sleep(0.001)
            assert tap.to_caller == [Kind.SLOTS, Kind.MODELS]
            watched.close()
            newcomer = await loaded.router()
            while sum(len(each) for each in models(newcomer).values()) < 6:
                await asyncio.sleep(0.001)
            for model in "fedcba":
                assert await served(newcomer, loaded.gate, model) == where[model]

    run(test())


def test_evicted_models_are_forgotten() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 1)
            near, far = await loaded.router(), await loaded.router()
            for model in "abc":
                await served(near, loaded.gate, model)
            while models(far)[loaded.ids[0]] != {"b", "c"}:
                await asyncio.sleep(0.001)
            assert models(near)[loaded.ids[0]] == {"b", "c"}

    run(test())


def test_a_busy_model_spills_to_the_next_replica_at_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 3)
            router = await loaded.router()
            home = await served(router, loaded.gate, "hot")
            hot = [submit(router, "hot") for _ in range(3)]
            assert hot[0].dispatched == [home]
            assert sorted(call.dispatched[0] for call in hot) == sorted(loaded.ids), "all at once, none waits"
            loaded.gate.open(3)
            await asyncio.gather(*(call.outcome for call in hot))
            assert all("hot" in held for held in models(router).values())

    run(test())


def test_of_those_that_hold_the_model_the_least_loaded_is_chosen() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 3, capacity=4)
            router = await loaded.router()
            calls = [submit(router, "hot") for _ in range(12)]
            loaded.gate.open(12)
            await asyncio.gather(*(call.outcome for call in calls))
            calls = [submit(router, "hot") for _ in range(9)]
            assert set(Counter(call.dispatched[0] for call in calls).values()) == {3}
            loaded.gate.open(9)
            await asyncio.gather(*(call.outcome for call in calls))

    run(test())


@pytest.mark.parametrize("shared", [False, True], ids=["own slots", "slots that others hold"])
def test_a_slot_that_frees_serves_a_model_that_is_there(shared: bool) -> None:
    """Whether the slot becomes free by a request of this caller, or is offered with READY."""

    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Multiplexed, name)
            router = scene.router(replica.route)
            while not router.replica_ids():
                await asyncio.sleep(0.001)
            await served(router, gate, "here")
            holder = scene.router(replica.route) if shared else router
            while shared and not holder.replica_ids():
                await asyncio.sleep(0.001)
            holding = submit(holder, "here")
            while gate.running == 0:
                await asyncio.sleep(0.001)
            waiting = [submit(router, model) for model in ("elsewhere", "here", "elsewhere", "here")]
            assert router.queued == 4
            await replica.control.nothing_more()
            gate.left.clear()
            gate.open(5)
            await asyncio.gather(*(call.outcome for call in [holding, *waiting]))
            assert gate.left == ["here", "here", "here", "elsewhere", "elsewhere"]

    run(test())


def test_the_head_of_the_queue_is_passed_over_sixteen_times_and_no_more() -> None:
    async def test() -> None:
        async with Scene() as scene:
            loaded = await multiplexed(scene, 1)
            router = await loaded.router()
            await served(router, loaded.gate, "hot")
            calls = [submit(router, model) for model in ["hot", "cold", *["hot"] * 40]]
            loaded.gate.left.clear()
            loaded.gate.open(42)
            await asyncio.gather(*(call.outcome for call in calls))
            assert loaded.gate.left == ["hot"] * 17 + ["cold"] + ["hot"] * 24

    run(test())


def test_ids_that_clients_make_up_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_MOST_MODELS_EXPECTED", 8)

    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replicas = [await scene.replica(Gated, name) for _ in range(2)]
            router = scene.router(*(each.route for each in replicas))
            while len(router.replica_ids()) < 2:
                await asyncio.sleep(0.001)
            for number in range(40):
                await served(router, gate, f"made-up-{number}")
            assert {len(held) for held in models(router).values()} == {8}

    run(test())


# --- sessions -------------------------------------------------------------------------------------------


async def gated(scene: Scene, count: int) -> tuple[list[RunningReplica], Gate]:
    name, gate = scene.gate()
    return [await scene.replica(Gated, name) for _ in range(count)], gate


def test_a_session_stays_at_its_replica_for_every_caller() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, gate = await gated(scene, 4)
            routers = [scene.router(*(each.route for each in order)) for order in (replicas, replicas[::-1])]
            homes: Counter[str] = Counter()
            for router in routers:
                while len(router.replica_ids()) < 4:
                    await asyncio.sleep(0.001)
            for number in range(60):
                ran = {await served(router, gate, session_id=f"user-{number}") for router in routers * 2}
                assert len(ran) == 1
                homes[ran.pop()] += 1
            assert len(homes) == 4, homes
            assert max(homes.values()) <= 30, homes

    run(test())


def test_a_session_whose_replica_is_full_goes_elsewhere() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, gate = await gated(scene, 2)
            router = scene.router(*(each.route for each in replicas))
            while len(router.replica_ids()) < 2:
                await asyncio.sleep(0.001)
            calls = [submit(router, session_id="user") for _ in range(3)]
            assert router.queued == 1
            assert calls[0].dispatched != calls[1].dispatched
            gate.open(3)
            await asyncio.gather(*(call.outcome for call in calls))
            await turns()
            assert await served(router, gate, session_id="user") == calls[0].dispatched[0]

    run(test())


def test_a_replica_that_leaves_moves_only_its_own_sessions() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, gate = await gated(scene, 4)
            router = scene.router(*(each.route for each in replicas))
            while len(router.replica_ids()) < 4:
                await asyncio.sleep(0.001)
            sessions = [f"user-{number}" for number in range(40)]
            before = {each: await served(router, gate, session_id=each) for each in sessions}
            router.update(deployment_route(*(each.route for each in replicas[1:])))
            gone = replicas[0].route.replica_id
            for each in sessions:
                now = await served(router, gate, session_id=each)
                assert now != gone
                assert now == before[each] or before[each] == gone

    run(test())
