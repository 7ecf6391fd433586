"""The controller's end of the routing socket, over real sockets."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from data.scene import KEY, Peer, run
from salver.controller.publisher import Publisher
from salver.wire.frames import Kind
from salver.wire.snapshot import Snapshot, decode_snapshot


@asynccontextmanager
async def publishing() -> AsyncGenerator[tuple[Publisher, str]]:
    publisher = Publisher(KEY)
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        path = f"{folder}/routing.sock"
        server = await asyncio.get_running_loop().create_unix_server(publisher.accept, path)
        yield publisher, f"unix:{path}"
        server.close()
        publisher.close()


async def version(peer: Peer, stream: int = 0) -> int:
    return decode_snapshot(bytes((await peer.next(Kind.SNAPSHOT, stream)).payload)).version


def test_subscribers_get_the_current_snapshot_and_every_new_one() -> None:
    async def test() -> None:
        async with publishing() as (publisher, address):
            early = await Peer().dial(address)
            publisher.publish(Snapshot(1, 1))
            assert await version(early) == 1
            late = await Peer().dial(address)
            assert await version(late) == 1
            for number in (2, 3):
                publisher.publish(Snapshot(1, number))
            for peer in (early, late):
                assert [await version(peer), await version(peer)] == [2, 3]
            publisher.close()
            await early.lost.wait()
            await late.lost.wait()

    run(test())


def test_whoever_asks_gets_a_marked_snapshot_after_all_earlier_ones() -> None:
    async def test() -> None:
        async with publishing() as (publisher, address):
            publisher.publish(Snapshot(1, 1))
            peer = await Peer().dial(address)
            assert await version(peer) == 1
            publisher.publish(Snapshot(1, 2))
            peer.send(Kind.WAIT, 7)
            assert await version(peer) == 2
            assert await version(peer, 7) == 2
            publisher.close()
            await peer.lost.wait()

    run(test())


def test_nothing_is_said_before_there_is_a_snapshot() -> None:
    """A controller that has not yet found the replicas that run would say that there are none."""

    async def test() -> None:
        async with publishing() as (publisher, address):
            peer = await Peer().dial(address)
            peer.send(Kind.WAIT, 1)
            peer.send(Kind.WAIT, 2)
            while not publisher._channels or next(iter(publisher._channels)).sender == "":
                await asyncio.sleep(0.001)
            publisher.publish(Snapshot(1, 5))
            assert await version(peer) == 5
            publisher.close()
            await peer.lost.wait()

    run(test())


def test_a_subscriber_that_left_is_forgotten() -> None:
    async def test() -> None:
        async with publishing() as (publisher, address):
            gone, stays = await Peer().dial(address), await Peer().dial(address)
            gone.hang_up()
            while len(publisher._channels) != 1:
                await asyncio.sleep(0.001)
            publisher.publish(Snapshot(1, 1))
            assert await version(stays) == 1
            publisher.close()
            await stays.lost.wait()

    run(test())
