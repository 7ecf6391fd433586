"""Pushing metrics over real sockets: once a second at most, only after a change, to whoever listens now."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from data.scene import KEY, Gated, Peer, hello, run, specs, turns
from salver.controller.metrics_store import MetricsStore
from salver.controller.publisher import Publisher
from salver.data.channel import Channel, connect_unix
from salver.data.load_board import LoadBoard
from salver.data.metrics_push import PUSH_AFTER_S, MetricsPush
from salver.data.replica.replica import CONTROLLER, Replica
from salver.data.routing.caller import Caller
from salver.telemetry.metrics import FamilySnapshot, Registry
from salver.wire.frames import Frame, Kind
from salver.wire.messages import Drain, Initialize, encode
from salver.wire.payload import dump_definition


class Listener:
    """The controller's side of connections."""

    def __init__(self) -> None:
        self.pushed: asyncio.Queue[Frame] = asyncio.Queue()
        self.channels: list[Channel] = []

    def accept(self) -> Channel:
        return Channel(self, expect_key=KEY, on_hello=self.channels.append)

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        assert frame.kind == Kind.METRICS
        self.pushed.put_nowait(frame)

    def channel_lost(self, channel: Channel) -> None:
        self.channels.remove(channel)

    async def value(self) -> float:
        """The value of the only series in the next push."""
        return value_of(await self.pushed.get())


def value_of(frame: Frame) -> float:
    [family] = msgspec.msgpack.decode(frame.payload, type=tuple[FamilySnapshot, ...])
    return family.series[0].values[0]


Dial = Callable[[], Awaitable[Channel]]


@asynccontextmanager
async def listening() -> AsyncGenerator[tuple[Listener, Dial]]:
    """A controller, and how a process dials it."""
    listener = Listener()
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        path = f"{folder}/c"
        server = await asyncio.get_running_loop().create_unix_server(listener.accept, path)
        receiver = Peer()
        try:
            yield listener, lambda: connect_unix(f"unix:{path}", lambda: Channel(receiver, hello=hello()))
        finally:
            server.close()
            for channel in [*listener.channels]:
                channel.close()
        while listener.channels:
            await turns(1)


def test_everything_is_pushed_after_connecting_and_then_after_changes() -> None:
    async def test() -> None:
        async with listening() as (listener, dial):
            registry = Registry()
            counter = registry.counter("c").series()
            push = MetricsPush(registry)
            counter.inc()
            push.add(await dial())
            first = await listener.pushed.get()
            assert value_of(first) == 1
            assert push._timer is None, "nothing wakes an idle process"

            loop = asyncio.get_running_loop()
            changed = loop.time()
            for _ in range(10):
                counter.inc()
                await asyncio.sleep(0.01)
            second = await listener.pushed.get()
            assert loop.time() - changed >= 0.9 * PUSH_AFTER_S, "what changes within a second goes in one push"
            assert value_of(second) == 11
            assert (push._timer, listener.pushed.qsize()) == (None, 0)
            assert first.meta == second.meta != b""
            assert MetricsPush(registry)._process != first.meta
            push.close()
            push.close()
            assert listener.pushed.empty(), "nothing was new"

    run(test())


def test_processes_that_connect_in_one_moment_do_not_push_in_one() -> None:
    """A hundred, as after a crash of the controller; the first push gives each its place in the second."""

    async def test() -> None:
        async with listening() as (listener, dial):
            loop = asyncio.get_running_loop()
            pushes: list[MetricsPush] = []
            for _ in range(100):
                registry = Registry()
                registry.counter("c").series().inc()
                pushes.append(MetricsPush(registry))
            channels = [await dial() for _ in pushes]
            start = loop.time()
            for push, channel in zip(pushes, channels, strict=True):
                push.add(channel)
            parts: Counter[int] = Counter()
            for _ in pushes:
                await listener.pushed.get()
                parts[int((loop.time() - start) / PUSH_AFTER_S * 5)] += 1
            assert max(parts.values()) <= 3 * len(pushes) / 5, parts
            for push in pushes:
                push.close()

    run(test())


def test_a_change_in_a_thread_wakes_the_loop() -> None:
    async def test() -> None:
        async with listening() as (listener, dial):
            registry = Registry()
            push = MetricsPush(registry)
            push.add(await dial())
            while push._timer is not None:
                await asyncio.sleep(0.01)
            assert listener.pushed.empty(), "there was nothing to say"
            thread = threading.Thread(target=registry.counter("c").series().inc)
            thread.start()
            assert await listener.value() == 1
            thread.join()
            push.close()

    run(test())


def test_the_end_pushes_what_is_new_at_once() -> None:
    async def test() -> None:
        async with listening() as (listener, dial):
            registry = Registry()
            counter = registry.counter("c").series()
            push = MetricsPush(registry)
            push.add(await dial())
            counter.inc(7)
            push.close()
            assert await listener.value() == 7
            assert push._timer is None
            counter.inc()
            assert push._timer is None

    run(test())


def test_without_a_controller_nothing_runs_and_the_next_one_gets_everything() -> None:
    async def test() -> None:
        async with listening() as (listener, dial):
            registry = Registry()
            counter = registry.counter("c").series()
            push = MetricsPush(registry)
            channel = await dial()
            push.add(channel)
            counter.inc()
            assert await listener.value() == 1
            channel.abort()
            while listener.channels:
                await turns(1)
            counter.inc()
            await turns()
            while push._timer is not None:
                await asyncio.sleep(0.01)
            for _ in range(5):
                counter.inc()
                await turns()
                assert push._timer is None
            push.add(await dial())
            assert await listener.value() == 7
            push.close()

    run(test())


def test_a_controller_that_does_not_read_gets_no_more_than_its_socket_holds() -> None:
    async def test() -> None:
        async with listening() as (listener, dial):
            registry = Registry()
            counter = registry.counter("c", "d" * 1_000_000).series()
            push = MetricsPush(registry)
            channel = await dial()
            push.add(channel)
            counter.inc()
            while not listener.channels:
                await turns(1)
            reader = listener.channels[0]._transport
            assert reader is not None
            reader.pause_reading()
            push._push()
            await turns()
            held = channel.backlog_bytes
            assert held > 0
            for _ in range(3):
                counter.inc()
                push._push()
            assert channel.backlog_bytes == held
            assert push._timer is not None, "it is tried again"
            reader.resume_reading()
            while await listener.value() != 4:
                pass
            push.close()

    run(test())


def test_a_proxy_pushes_on_its_subscription() -> None:
    async def test() -> None:
        store = MetricsStore(Registry())
        publisher = Publisher(KEY, store)
        registry = Registry()
        registry.counter("c").series().inc(5)
        with tempfile.TemporaryDirectory(prefix="sv-") as folder:
            path = f"{folder}/routing"
            server = await asyncio.get_running_loop().create_unix_server(publisher.accept, path)
            push = MetricsPush(registry)
            caller = Caller(connect=connect_unix, controller_address=f"unix:{path}", hello=hello("proxy"), board=None)
            caller.push_metrics(push)
            caller.start()
            while not store.families():
                await asyncio.sleep(0.01)
            [family] = store.families()
            assert (family.name, family.series[0].value) == ("c", 5)
            push.close()
            await caller.stop()
            while store._present:
                await asyncio.sleep(0.01)
            [family] = store.families()
            assert family.series[0].value == 5
            server.close()
            publisher.close()

    run(test())


def test_a_replica_pushes_to_its_controller_alone_also_when_it_drains() -> None:
    async def test() -> None:
        registry = Registry()
        counter = registry.counter("c").series()
        board = LoadBoard()
        with tempfile.TemporaryDirectory(prefix="sv-") as folder:
            path = Path(folder) / "r"
            replica = Replica(key=KEY, board=board, slot=0, prepare=lambda _: None, metrics=MetricsPush(registry))
            server = await asyncio.get_running_loop().create_unix_server(replica.accept, str(path))
            controller = await Peer().dial(f"unix:{path}", CONTROLLER)
            caller = await Peer().dial(f"unix:{path}")
            initialize = Initialize("app#d#x", *specs(dump_definition((Gated, ("gate",), {})), 1))
            controller.send(Kind.CONTROL, 1, b"", encode(initialize))
            frame = await controller.frames.get()
            assert frame.kind in {Kind.RESPONSE, Kind.ERROR}  # the gate may be another test's: that is not the point
            counter.inc(2)
            assert value_of(await controller.next(Kind.METRICS)) == 2
            counter.inc()
            controller.send(Kind.CONTROL, 2, b"", encode(Drain()))
            await controller.next(Kind.RESPONSE, 2)
            await controller.next(Kind.GOAWAY)
            await caller.next(Kind.GOAWAY)
            caller.hang_up()
            await replica.drained.wait()
            await replica.close()
            assert value_of(await controller.next(Kind.METRICS)) == 3
            await controller.lost.wait()
            assert caller.frames.empty()
            server.close()
        board.close()

    run(test())
