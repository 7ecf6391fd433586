"""How the controller learns what waits and what runs: over real sockets, with a board of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from data.scene import KEY, Peer, run
from salver.control.events import Event, Load, LoadSampled
from salver.controller.demand import SAMPLE_EVERY_S, LoadWatch
from salver.controller.publisher import Publisher
from salver.data.load_board import LoadBoard
from salver.wire.frames import Kind
from salver.wire.messages import Demand, encode


class World:
    """A load watch behind a routing socket; the test is the replicas and the callers."""

    def __init__(self) -> None:
        self.board = LoadBoard()
        self.slots: dict[str, list[int]] = {}
        self.events: asyncio.Queue[LoadSampled] = asyncio.Queue()
        self.watch = LoadWatch(self.board, lambda key: self.slots.get(key, ()), self._tell)
        self.publisher = Publisher(KEY, load=self.watch)
        self.address = ""

    def _tell(self, event: Event) -> None:
        assert isinstance(event, LoadSampled)
        self.events.put_nowait(event)

    async def caller(self, **demand: int) -> Peer:
        peer = await Peer().dial(self.address)
        say(peer, {f"app#{name}": count for name, count in demand.items()})
        return peer

    async def told(self, key: str, load: Load) -> None:
        """Return when this is what the core is told."""
        while (await self.events.get()).loads.get(key) != load:
            pass


def say(peer: Peer, demand: Demand) -> None:
    peer.send(Kind.DEMAND, 0, encode(demand))


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    here = World()
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        server = await asyncio.get_running_loop().create_unix_server(here.publisher.accept, f"{folder}/r.sock")
        here.address = f"unix:{folder}/r.sock"
        yield here
        here.watch.stop()
        server.close()
        here.publisher.close()
    here.board.close()


def test_what_waits_in_all_callers_and_runs_in_all_replicas_is_added_up() -> None:
    async def test() -> None:
        async with world() as here:
            here.slots["app#d"] = [3, 8]
            here.board.cells[3], here.board.cells[8], here.board.cells[9] = 2, 5, 100
            here.watch.watch({"app#d"})
            await here.told("app#d", Load(0.0, 7.0))
            peers = [await here.caller(d=4), await here.caller(d=1, other=9)]
            await here.told("app#d", Load(5.0, 7.0))
            say(peers[0], {"app#d": 2})
            await here.told("app#d", Load(3.0, 7.0))
            here.board.cells[8] = 0
            await here.told("app#d", Load(3.0, 2.0))

    run(test())


def test_what_a_caller_has_said_goes_with_its_connection() -> None:
    async def test() -> None:
        async with world() as here:
            here.watch.watch({"app#d"})
            peers = [await here.caller(d=4), await here.caller(d=1)]
            await here.told("app#d", Load(5.0, 0.0))
            peers[0].hang_up()
            await here.told("app#d", Load(1.0, 0.0))
            say(peers[1], {})
            await here.told("app#d", Load(0.0, 0.0))

    run(test())


def test_only_what_is_watched_is_sampled_and_only_while_it_is() -> None:
    async def test() -> None:
        async with world() as here:
            here.watch.watch({"app#d", "app#e"})
            assert (await here.events.get()).loads.keys() == {"app#d", "app#e"}
            here.watch.watch({"app#e"})
            while (await here.events.get()).loads.keys() != {"app#e"}:
                pass
            here.watch.watch(set())
            here.watch.watch({"app#d"})
            while (await here.events.get()).loads.keys() != {"app#d"}:
                pass
            here.watch.watch(set())
            assert here.events.empty()
            peer = await here.caller(d=1)
            peer.send(Kind.HELLO)  # whatever is no demand is ignored
            await asyncio.sleep(2 * SAMPLE_EVERY_S)
            assert here.events.empty()

    run(test())


def test_counts_are_never_older_than_a_sample() -> None:
    async def test() -> None:
        async with world() as here:
            here.slots["app#d"] = [1]
            here.watch.watch({"app#d"})
            loop = asyncio.get_running_loop()
            start = loop.time()
            for _ in range(9):
                await here.events.get()
            assert 7 * SAMPLE_EVERY_S < loop.time() - start < 8 * SAMPLE_EVERY_S * 5

    run(test())


def test_counts_are_fresh_when_a_decision_is_due() -> None:
    async def test() -> None:
        async with world() as here:
            here.watch.refresh()
            assert here.events.empty(), "nothing is watched"
            here.slots["app#d"] = [1]
            here.watch.watch({"app#d"})
            await here.events.get()
            here.board.cells[1] = 3
            here.watch.refresh()
            assert here.events.get_nowait().loads == {"app#d": Load(0.0, 3.0)}

    run(test())


def test_a_deployment_without_replicas_that_is_wanted_is_told_at_once() -> None:
    async def test() -> None:
        async with world() as here:
            here.watch.watch({"app#cold"})
            loop = asyncio.get_running_loop()
            quickest = 9.0
            for _ in range(8):
                await here.events.get()  # a sample has just been taken
                start = loop.time()
                peer = await here.caller(cold=1)
                await here.told("app#cold", Load(1.0, 0.0))
                quickest = min(quickest, loop.time() - start)
                peer.hang_up()
                await here.told("app#cold", Load(0.0, 0.0))
            assert quickest < SAMPLE_EVERY_S / 3

    run(test())
