"""Replicas that fail everything while others do not: who is left out, for how long, and who never is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from salver.data.routing import outliers
from salver.data.routing.router import Router
from salver.wire.snapshot import ReplicaRoute

from .scene import RecordedCall, RunningReplica, Scene, deployment_route, run, submit

FAILS: dict[str, Callable[[int], bool]] = {}
"""By replica: which labels it fails."""


class Moody:
    def __init__(self, name: str) -> None:
        self.name = name

    async def work(self, label: int) -> str:
        from .test_router_outliers import FAILS

        if FAILS[self.name](label):
            raise ValueError(self.name)
        return self.name


def always(_: int) -> bool:
    return True


def never(_: int) -> bool:
    return False


def now_and_then(label: int) -> bool:
    return label % 4 == 0


@pytest.fixture(autouse=True)
def for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is left out stays out, unless the test says otherwise."""
    monkeypatch.setattr(outliers, "_FIRST_S", 1000.0)
    monkeypatch.setattr(outliers, "_LONGEST_S", 1000.0)


async def moody(
    scene: Scene, *moods: Callable[[int], bool], capacity: int = 2
) -> tuple[list[RunningReplica], Router]:
    replicas: list[RunningReplica] = []
    for number, mood in enumerate(moods):
        FAILS[str(number)] = mood
        replicas.append(await scene.replica(Moody, str(number), capacity=capacity))
    router = scene.router(*(replica.route for replica in replicas), capacity=capacity)
    while len(router.replica_ids()) < len(moods):
        await asyncio.sleep(0.001)
    return replicas, router


async def failures(router: Router, labels: range, *, of_models: bool = False) -> list[str]:
    """Ask for one after the other; which replicas failed."""
    failed: list[str] = []
    for label in labels:
        call = RecordedCall("work", label)
        call.model_id = f"m{label}" if of_models else ""
        router.submit(call)
        try:
            await call.outcome
        except RuntimeError as error:
            failed.append(str(error))
    return failed


def test_a_replica_that_fails_everything_is_left_out_after_five(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, router = await moody(scene, always, never, never)
            with caplog.at_level(logging.WARNING, "salver.router"):
                assert await failures(router, range(100)) == ["0"] * 5
            assert router.replica_ids() == [replica.route.replica_id for replica in replicas[1:]]
            assert [record.message for record in caplog.records if record.name == "salver.router"] == [
                "replica app#d#1 has failed 5 requests in a row, and others have not: it gets no more for 1000 s"
            ]

    run(test())


def test_so_it_is_when_many_are_under_way_and_wait() -> None:
    async def test() -> None:
        async with Scene() as scene:
            _, router = await moody(scene, always, never)
            calls = [submit(router, "work", label) for label in range(200)]
            outcomes = await asyncio.gather(*(call.outcome for call in calls), return_exceptions=True)
            failed = sum(isinstance(outcome, RuntimeError) for outcome in outcomes)
            assert 5 <= failed <= 5 + 32, "and what had been sent ahead and started there when it was left out"

    run(test())


def test_it_is_tried_again_with_one_request_and_used_when_that_goes_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "_FIRST_S", 0.3)

    async def test() -> None:
        async with Scene() as scene:
            replicas, router = await moody(scene, always, never)
            assert await failures(router, range(20)) == ["0"] * 5
            for _ in range(2):
                while len(router.replica_ids()) < 2:
                    await asyncio.sleep(0.001)
                calls = [submit(router, "work", label) for label in range(20)]
                outcomes = await asyncio.gather(*(call.outcome for call in calls), return_exceptions=True)
                assert sum(isinstance(outcome, RuntimeError) for outcome in outcomes) == 1
            FAILS["0"] = never
            while len(router.replica_ids()) < 2:
                await asyncio.sleep(0.001)
            assert await failures(router, range(20)) == []
            assert sorted(router.replica_ids()) == sorted(replica.route.replica_id for replica in replicas)

    run(test())


@pytest.mark.parametrize("moods", [(always, always), (now_and_then, now_and_then, now_and_then), (always,)])
def test_nobody_is_left_out_for_what_the_others_do_too(moods: tuple[Callable[[int], bool], ...]) -> None:
    async def test() -> None:
        async with Scene() as scene:
            _, router = await moody(scene, *moods)
            assert await failures(router, range(100))
            assert len(router.replica_ids()) == len(moods)

    run(test())


def test_half_of_them_stay() -> None:
    async def test() -> None:
        async with Scene() as scene:
            _, router = await moody(scene, always, always, always, never)
            await failures(router, range(100))
            assert len(router.replica_ids()) == 2

    run(test())


def test_failures_of_a_model_are_not_the_replicas() -> None:
    async def test() -> None:
        async with Scene() as scene:
            _, router = await moody(scene, always, never)
            assert len(await failures(router, range(30), of_models=True)) >= 10
            assert len(router.replica_ids()) == 2

    run(test())


def test_one_that_is_left_out_can_be_asked_by_name_and_taken_off_the_list() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas, router = await moody(scene, always, never)
            await failures(router, range(20))
            FAILS["0"] = never
            call = RecordedCall("work", 0)
            router.submit_to(replicas[0].route.replica_id, call)
            assert await call.outcome == "0"

            router.update(deployment_route(replicas[1].route, capacity=2))
            assert router.replica_ids() == [replicas[1].route.replica_id]
            router.update(deployment_route(*routes(replicas), capacity=2))
            while len(router.replica_ids()) < 2:
                await asyncio.sleep(0.001)

    run(test())


def routes(replicas: list[RunningReplica]) -> list[ReplicaRoute]:
    return [replica.route for replica in replicas]
