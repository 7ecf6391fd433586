"""The controller's side of what it asks running replicas: health checks, new settings, reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from data.scene import GATES, KEY, Gated, RunningReplica, Scene, run, specs, turns
from salver.control.events import Event, HealthChecked, ReconfigureReplica, ReplicaReconfigured
from salver.controller import reconfiguring
from salver.controller.health import HealthChecks
from salver.controller.reconfiguring import Reconfiguring
from salver.controller.replica_client import ReplicaClient
from salver.data.channel import connect_unix
from salver.records import DeploymentSpec
from salver.wire.messages import CheckHealth, Report, Worn


class Patient:
    """Its health waits at a gate, when it has one; the test says how it is."""

    ways: list[str]

    def __init__(self, gate: str) -> None:
        self.gate = GATES[gate]
        self.first = True

    async def check_health(self) -> None:
        if self.first:
            self.first = False
        elif await self.gate.hold("check") and self.ways and self.ways.pop(0) == "unwell":
            raise ConnectionError("the database is away")

    async def reconfigure(self, user_config: str) -> None:
        if user_config == "broken":
            raise ValueError("no such threshold")
        if user_config == "held":
            await self.gate.hold("reconfigure")


class Told:
    """What the controller's parts tell."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def __call__(self, event: Event) -> None:
        self.events.put_nowait(event)

    async def next(self) -> Event:
        return await self.events.get()


@asynccontextmanager
async def connected(
    replica: RunningReplica, on_report: Callable[[Report], None] | None = None
) -> AsyncIterator[ReplicaClient]:
    client = ReplicaClient(connect_unix, replica.address, KEY, None, on_report)
    yield client
    client.close()
    await turns()


@asynccontextmanager
async def checks(client: ReplicaClient | None, told: Told) -> AsyncIterator[HealthChecks]:
    health = HealthChecks(lambda _: client, told)
    yield health
    health.stop()
    await turns()


def spec(period_s: float = 0.01, timeout_s: float = 30.0, **settings: Any) -> DeploymentSpec:
    return specs(b"", 1, health_check_period_s=period_s, health_check_timeout_s=timeout_s, **settings)[1]


# --- health -----------------------------------------------------------------------------------------------


def test_a_watched_replica_is_asked_every_period_and_every_answer_is_told() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            gate.open(1000)
            Patient.ways = ["well", "unwell", "well"]
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client, checks(client, told) as health:
                health.watch("r", spec())
                assert await told.next() == HealthChecked("r", "")
                failed = await told.next()
                assert isinstance(failed, HealthChecked)
                assert failed.error.endswith("ConnectionError: the database is away")
                assert "in check_health" in failed.error
                assert await told.next() == HealthChecked("r", "")

    run(test())


def test_a_check_that_does_not_answer_has_failed_and_is_asked_again() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            Patient.ways = []
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client, checks(client, told) as health:
                health.watch("r", spec(timeout_s=0.02))
                for _ in range(3):
                    assert await told.next() == HealthChecked("r", "check_health did not answer within 0.02 s")
                assert gate.most == 1, "the one that hangs is not started again"
                gate.open(1000)
                while await told.next() != HealthChecked("r", ""):
                    pass

    run(test())


def test_a_broken_connection_is_no_failure_and_is_made_again() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            Patient.ways = []
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client, checks(client, told) as health:
                health.watch("r", spec())
                await gate.entered.get()
                for channel in list(replica.replica._channels):
                    channel.abort()
                gate.open(1000)
                assert await told.next() == HealthChecked("r", ""), "the next one's answer"

    run(test())


def test_who_is_forgotten_or_gone_is_not_asked() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            gate.open(1000)
            Patient.ways = []
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client, checks(client, told) as health, checks(None, told) as nobody:
                nobody.watch("gone", spec())
                health.watch("r", spec())
                await told.next()
                health.forget("r")
                health.forget("unknown")
                while not told.events.empty():
                    told.events.get_nowait()
                await client.ask(CheckHealth())
                await turns(50)
                assert told.events.empty()

    run(test())


def test_replicas_that_start_together_are_not_asked_together_and_a_change_of_period_is_followed() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            gate.open(10_000)
            Patient.ways = []
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client, checks(client, told) as health:
                names = [f"r{number}" for number in range(20)]
                for each in names:
                    health.watch(each, spec(period_s=1e6))
                await turns(50)
                assert told.events.empty(), "the first time comes later, too"
                health.watch(names[0], spec(period_s=1e6))
                for each in names:
                    health.watch(each, spec(period_s=0.2))
                order = [event.replica_id for event in [await told.next() for _ in names]]  # type: ignore[union-attr]
                assert sorted(order) == sorted(names), "once each in the first period"
                assert order != names

    run(test())


# --- new settings -----------------------------------------------------------------------------------------


def reconfigure(replica: RunningReplica, user_config: str, **settings: Any) -> ReconfigureReplica:
    return ReconfigureReplica("r", replica.address, 1, spec(user_config=user_config, **settings), 0)


def test_a_reconfigure_ends_in_one_event_whatever_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconfiguring, "_EXIT_TOLD_WITHIN_S", 0.01)

    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            Patient.ways = []
            replica, told = await scene.replica(Patient, name), Told()
            async with connected(replica) as client:
                work = Reconfiguring(lambda _id, _address: client, told)
                await work.reconfigure(reconfigure(replica, "good"))
                assert await told.next() == ReplicaReconfigured("r", 1)
                await work.reconfigure(reconfigure(replica, "broken"))
                failed = await told.next()
                assert isinstance(failed, ReplicaReconfigured)
                assert failed.error.endswith("ValueError: no such threshold")
                await work.reconfigure(reconfigure(replica, "held", startup_timeout_s=0.02))
                assert await told.next() == ReplicaReconfigured("r", 1, "reconfigure did not return within 0.02 s")
                gate.open()
                await replica.die()
                await work.reconfigure(reconfigure(replica, "good"))
                gone = await told.next()
                assert isinstance(gone, ReplicaReconfigured)
                assert gone.error.startswith("the replica cannot be reached: ")

    run(test())


# --- reports ----------------------------------------------------------------------------------------------


def test_reports_are_passed_on() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Gated, scene.gate()[0], max_requests=1)
            peer = await scene.peer(replica)
            reports: asyncio.Queue[Report] = asyncio.Queue()
            async with connected(replica, reports.put_nowait) as client:
                await client._connected()
                peer.call(1, "echo", 1)
                assert await reports.get() == Worn("requests served: 1 (max_requests)")
            async with connected(replica, reports.put_nowait) as client:
                await client._connected()
                assert await reports.get() == Worn("requests served: 1 (max_requests)"), (
                    "the next controller hears it"
                )
            async with connected(replica) as client:
                await client._connected()

    run(test())
