"""The subscription to the routing table: what callers know, and what they do without a controller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from salver.controller.publisher import Publisher
from salver.data.channel import connect_unix
from salver.data.routing import caller as caller_module
from salver.data.routing.caller import Caller
from salver.errors import DeploymentUnavailableError
from salver.wire.snapshot import ApplicationRoute, ReplicaRoute, Snapshot

from .scene import KEY, RecordedCall, Scene, deployment_route, hello, run, submit


def snapshot(version: int, *routes: ReplicaRoute, epoch: int = 1) -> Snapshot:
    return Snapshot(epoch, version, (ApplicationRoute("app", "/", "d"),), (deployment_route(*routes),))


EMPTY = Snapshot(1, 99)


class Controller:
    """The routing socket, with or without somebody behind it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "routing.sock"
        self.address = f"unix:{self._path}"
        self.publisher = Publisher(KEY)

    async def start(self) -> None:
        self.publisher = Publisher(KEY)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self.publisher.accept, str(self._path))

    async def stop(self) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)
        self.publisher.close()


@asynccontextmanager
async def calling(scene: Scene, controller: Controller) -> AsyncGenerator[tuple[Caller, asyncio.Queue[Snapshot]]]:
    """A started caller, and the snapshots that it told about."""
    told: asyncio.Queue[Snapshot] = asyncio.Queue()
    caller = Caller(
        connect=connect_unix,
        controller_address=controller.address,
        hello=hello(),
        board=None,
    )
    caller.on_snapshot(told.put_nowait)
    caller.start()
    caller.start()
    try:
        yield caller, told
    finally:
        await caller.stop()
        await caller.stop()


def test_every_snapshot_arrives_and_replaces_the_one_before() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            await controller.start()
            controller.publisher.publish(snapshot(1))
            async with calling(scene, controller) as (caller, told):
                assert (await told.get()).version == 1
                for version in (2, 3):
                    controller.publisher.publish(snapshot(version))
                    assert (await told.get()).version == version
                assert caller.snapshot == snapshot(3)
            await controller.stop()

    run(test())


def test_routers_follow_the_snapshots() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            await controller.start()
            replica, gate = await scene.gated_replica()
            async with calling(scene, controller) as (caller, told):
                assert caller.router("app#d") is None
                controller.publisher.publish(snapshot(1))
                await told.get()
                router = caller.router("app#d")
                assert router is not None
                assert caller.router("app#d") is router
                call = submit(router, "work", "routed")
                controller.publisher.publish(snapshot(2, replica.route))
                gate.open()
                assert await call.outcome == "routed"
                controller.publisher.publish(EMPTY)
                while (await told.get()) != EMPTY:
                    pass
                assert caller.router("app#d") is None
                assert isinstance(submit(router).outcome.exception(), DeploymentUnavailableError)
            await controller.stop()

    run(test())


def test_an_unknown_deployment_is_asked_for_before_it_is_refused() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            await controller.start()
            controller.publisher.publish(EMPTY)
            async with calling(scene, controller) as (caller, told):
                await told.get()
                with pytest.raises(DeploymentUnavailableError, match=r"app#d is unavailable\. It does not exist"):
                    await caller.find_router("app#d")
                finding = asyncio.create_task(caller.find_router("app#d"))
                controller.publisher.publish(snapshot(100))
                assert (await finding).key == "app#d"
            await controller.stop()

    run(test())


def test_a_call_made_before_the_connection_waits_for_the_first_snapshot() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            async with calling(scene, controller) as (caller, _):
                finding = asyncio.create_task(caller.find_router("app#d"))
                await asyncio.sleep(0)
                await controller.start()
                controller.publisher.publish(snapshot(1))
                assert (await finding).key == "app#d"
            await controller.stop()

    run(test())


def test_calls_made_before_the_first_snapshot_start_in_their_order() -> None:
    """With one slot, the order in which they are answered is the order in which they started."""

    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            replica, gate = await scene.gated_replica()
            async with calling(scene, controller) as (caller, told):
                calls = [RecordedCall("work", number) for number in range(6)]
                for call in calls[:3]:
                    caller.submit("app#d", call)
                await controller.start()
                controller.publisher.publish(snapshot(1, replica.route))
                await told.get()
                for call in calls[3:]:  # the deployment is known by now; the first three may still be on their way
                    caller.submit("app#d", call)
                gate.open(6)
                await asyncio.gather(*(call.outcome for call in calls))
                assert gate.left == list(range(6))
            await controller.stop()

    run(test())


def test_calls_of_a_deployment_that_does_not_exist_are_refused_together() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            async with calling(scene, controller) as (caller, _):
                calls = [RecordedCall("work") for _ in range(3)]
                for call in calls:
                    caller.submit("app#d", call)
                await controller.start()
                controller.publisher.publish(EMPTY)
                outcomes = await asyncio.gather(*(call.outcome for call in calls), return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [DeploymentUnavailableError] * 3
            await controller.stop()

    run(test())


def test_nobody_waits_for_a_controller_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "_ANSWER_WITHIN_S", 0.01)

    async def test() -> None:
        async with Scene() as scene, calling(scene, Controller(scene.folder)) as (caller, _):
            await caller.refresh()
            with pytest.raises(DeploymentUnavailableError):
                await caller.find_router("app#d")

    run(test())


def test_stopping_answers_whoever_waits() -> None:
    async def test() -> None:
        async with Scene() as scene, calling(scene, Controller(scene.folder)) as (caller, _):
            finding = asyncio.create_task(caller.find_router("app#d"))
            await asyncio.sleep(0)
            await caller.stop()
            with pytest.raises(DeploymentUnavailableError):
                await finding

    run(test())


def test_the_last_snapshot_serves_while_the_controller_is_away() -> None:
    async def test() -> None:
        async with Scene() as scene:
            controller = Controller(scene.folder)
            await controller.start()
            replica, gate = await scene.gated_replica()
            controller.publisher.publish(snapshot(1, replica.route))
            async with calling(scene, controller) as (caller, told):
                await told.get()
                await controller.stop()
                router = caller.router("app#d")
                assert router is not None
                calls: list[RecordedCall] = [submit(router, "work", number) for number in range(3)]
                gate.open(3)
                assert await asyncio.gather(*(call.outcome for call in calls)) == [0, 1, 2]
                await controller.start()
                controller.publisher.publish(snapshot(0, replica.route, epoch=2))
                assert (await told.get()).epoch == 2
                assert caller.router("app#d") is router, "what did not change is not dialled again"
            await controller.stop()

    run(test())
