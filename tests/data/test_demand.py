"""What callers tell the controller about requests that wait: soon, whole, seldom, and nothing when nothing waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from salver.data.channel import Channel, connect_unix
from salver.data.routing.caller import Caller
from salver.data.routing.router import Router
from salver.wire.frames import Frame, Kind
from salver.wire.messages import Demand, decode_demand
from salver.wire.snapshot import ApplicationRoute, DeploymentRoute, ReplicaRoute, Snapshot, encode_snapshot

from .scene import KEY, RecordedCall, Scene, hello, run, submit


class DemandHeard:
    """The controller's end of the routing socket: gives one snapshot, keeps every frame."""

    def __init__(self, scene: Scene, *deployments: DeploymentRoute) -> None:
        self.path = scene.folder / "routing.sock"
        self.address = f"unix:{self.path}"
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._deployments = deployments
        self._channels: set[Channel] = set()

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, str(self.path))

    def stop(self) -> None:
        """What its death does: the socket is gone, and every connection."""
        self._server.close()
        self.path.unlink(missing_ok=True)
        for channel in list(self._channels):
            channel.abort()

    def _accept(self) -> Channel:
        return Channel(self, expect_key=KEY, on_hello=self._greeted)

    def _greeted(self, channel: Channel) -> None:
        self._channels.add(channel)
        self._send_snapshot(channel, 0)

    def _send_snapshot(self, channel: Channel, stream: int) -> None:
        snapshot = Snapshot(1, 1, (ApplicationRoute("app", "/", "d"),), self._deployments)
        channel.send(Kind.SNAPSHOT, stream, payload=encode_snapshot(snapshot))

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        self.frames.put_nowait(frame)
        if frame.kind == Kind.WAIT:
            self._send_snapshot(channel, frame.stream)

    def channel_lost(self, channel: Channel) -> None:
        self._channels.discard(channel)

    async def demand(self) -> Demand:
        frame = await self.frames.get()
        assert frame.kind == Kind.DEMAND
        return decode_demand(frame.meta)


def route(name: str, *replicas: ReplicaRoute, capacity: int = 1) -> DeploymentRoute:
    return DeploymentRoute(f"app#{name}", replicas, capacity, -1)


@asynccontextmanager
async def calling(scene: Scene, *deployments: DeploymentRoute) -> AsyncGenerator[tuple[Caller, DemandHeard]]:
    """A caller that has its snapshot, and who hears what it says."""
    heard = DemandHeard(scene, *deployments)
    await heard.start()
    caller = Caller(connect=connect_unix, controller_address=heard.address, hello=hello(), board=None)
    caller.start()
    await caller.refresh()
    while not heard.frames.empty():  # the question of the refresh
        assert heard.frames.get_nowait().kind == Kind.WAIT
    try:
        yield caller, heard
    finally:
        await caller.stop()
        heard.stop()


def router_of(caller: Caller, name: str) -> Router:
    router = caller.router(f"app#{name}")
    assert router is not None
    return router


def leave_waiting(router: Router) -> RecordedCall:
    """A request that is refused when the test ends, which nobody minds."""
    call = submit(router)
    call.outcome.add_done_callback(asyncio.Future.exception)
    return call


def test_a_request_that_waits_is_told_and_that_it_no_longer_does() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            async with calling(scene, route("d", replica.route)) as (caller, heard):
                router = router_of(caller, "d")
                first = submit(router, "work", 1)
                await gate.entered.get()
                heard.frames = asyncio.Queue()  # the first may have waited for the connection
                second, third = submit(router, "work", 2), submit(router, "work", 3)
                assert await heard.demand() == {"app#d": 2}
                gate.open()
                assert await first.outcome == 1
                assert await heard.demand() == {"app#d": 1}
                gate.open(2)
                assert [await second.outcome, await third.outcome] == [2, 3]
                assert await heard.demand() == {}

    run(test())


def test_everything_that_waits_is_in_every_message() -> None:
    async def test() -> None:
        async with Scene() as scene, calling(scene, route("d"), route("e"), route("idle")) as (caller, heard):
            leave_waiting(router_of(caller, "d"))
            router_of(caller, "idle")
            assert await heard.demand() == {"app#d": 1}
            for _ in range(3):
                leave_waiting(router_of(caller, "e"))
            assert await heard.demand() == {"app#d": 1, "app#e": 3}

    run(test())


def test_nothing_is_said_while_slots_are_free() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=100)
            async with calling(scene, route("d", replica.route, capacity=100)) as (caller, heard):
                router = router_of(caller, "d")
                while not router.has_replicas:
                    await asyncio.sleep(0)
                calls = [submit(router, "work", number) for number in range(50)]
                gate.open(50)
                assert [await call.outcome for call in calls] == list(range(50))
                await caller.refresh()
                assert (await heard.frames.get()).kind == Kind.WAIT
                assert heard.frames.empty()

    run(test())


def test_changes_are_told_ten_times_a_second_at_most() -> None:
    async def test() -> None:
        async with Scene() as scene, calling(scene, route("d")) as (caller, heard):
            router = router_of(caller, "d")
            loop = asyncio.get_running_loop()
            start = loop.time()
            while heard.frames.qsize() < 5:
                leave_waiting(router)
                await asyncio.sleep(0.001)
            assert loop.time() - start > 0.39  # four gaps of 100 ms; late ones make it longer
            while await heard.demand() != {"app#d": router.queued}:
                pass

    run(test())


def test_who_gave_up_does_not_wait() -> None:
    async def test() -> None:
        async with Scene() as scene, calling(scene, route("d")) as (caller, heard):
            calls = [leave_waiting(router_of(caller, "d")) for _ in range(2)]
            assert await heard.demand() == {"app#d": 2}
            calls[0].abandoned = True
            assert await heard.demand() == {"app#d": 1}
            calls[1].abandoned = True
            assert await heard.demand() == {}

    run(test())


def test_requests_for_one_replica_alone_count() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            async with calling(scene, route("d", replica.route)) as (caller, heard):
                router = router_of(caller, "d")
                first = submit(router, "work", 1)
                await gate.entered.get()
                heard.frames = asyncio.Queue()
                pinned = RecordedCall("work", 2)
                router.submit_to(replica.route.replica_id, pinned)
                assert await heard.demand() == {"app#d": 1}
                gate.open(2)
                assert [await first.outcome, await pinned.outcome] == [1, 2]
                assert await heard.demand() == {}

    run(test())


def test_a_controller_that_comes_back_is_told_again() -> None:
    async def test() -> None:
        async with Scene() as scene, calling(scene, route("d")) as (caller, heard):
            leave_waiting(router_of(caller, "d"))
            assert await heard.demand() == {"app#d": 1}
            heard.stop()
            again = DemandHeard(scene, route("d"))
            await again.start()
            assert await again.demand() == {"app#d": 1}
            again.stop()

    run(test())
