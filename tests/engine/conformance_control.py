"""What every engine must do: what the controller asks of a replica that it has started, while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from salver import serve
from salver.controller.replica_client import ReplicaClient, ReplicaRefused
from salver.records import ApplicationSpec, DeploymentSpec
from salver.wire.frames import Kind
from salver.wire.messages import (
    CheckHealth,
    Constructed,
    Control,
    Initialize,
    Reconfigure,
    RecordStats,
    Report,
    Worn,
    decode_constructed,
)
from salver.wire.payload import dump_definition

from .conformance_calls import ask, call
from .world import DEPLOYMENT, WITHIN_S, Caller, World

Talk = tuple[ReplicaClient, Caller, asyncio.Queue[Report]]


class Attended:
    """The user's class, with everything that the controller may ask for."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reconfigure(self, user_config: Any, rank: Any) -> None:
        if user_config == "broken":
            raise ValueError("no such threshold")
        self.told.append((user_config, rank.rank))

    def check_health(self) -> None:
        if self.told[-1][0] == "unwell":
            raise ConnectionError("the database is away")

    async def record_autoscaling_stats(self) -> dict[str, int]:
        return {"told": len(self.told)}

    async def all(self) -> list[Any]:
        return self.told

    async def rank(self) -> tuple[int, int]:
        context = serve.get_replica_context()
        assert context.rank is not None
        return context.rank.rank, context.world_size

    async def stubborn(self) -> None:
        """The first time that it is cancelled it goes on."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()


def spec(definition: bytes = b"", **settings: Any) -> DeploymentSpec:
    return DeploymentSpec(DEPLOYMENT, "v1", definition, **settings)


@asynccontextmanager
async def attended(world: World, suffix: str, **settings: Any) -> AsyncIterator[Talk]:
    """A replica of ``Attended`` with rank 1, its controller's connection and its caller's."""
    process = await world.start(suffix, 1)
    reports: asyncio.Queue[Report] = asyncio.Queue()
    client = ReplicaClient(world.connect, process.address, world.key, world.metrics, reports.put_nowait)
    deployment = spec(dump_definition((Attended, (), {})), **settings)
    application = ApplicationSpec("app", None, "Probe", (deployment,))
    async with asyncio.timeout(WITHIN_S):
        answer = await client.ask(Initialize(process.replica_id, application, deployment, 1))
    assert decode_constructed(answer) == Constructed("", checks_health=True, records_stats=True, rank=1)
    async with world.caller(process) as caller:
        yield client, caller, reports
    client.close()


async def refusal(client: ReplicaClient, message: Control) -> str:
    """Why it refuses; it must."""
    try:
        async with asyncio.timeout(WITHIN_S):
            await client.ask(message)
    except ReplicaRefused as error:
        return str(error)
    raise AssertionError(f"it did as if nothing were wrong: {message}")


async def a_replica_follows_its_new_settings(world: World) -> None:
    async with attended(world, "raaa", user_config="a", num_replicas=2) as (client, caller, _):
        assert await ask(caller, 1, "rank") == (1, 2)
        async with asyncio.timeout(WITHIN_S):
            await client.ask(Reconfigure(spec(user_config="b", num_replicas=1, max_ongoing_requests=1), 0))
        assert await ask(caller, 2, "rank") == (0, 1)
        assert await ask(caller, 3, "all") == [("a", 1), ("b", 0)]
        call(caller, 4, "stubborn")
        call(caller, 5, "rank")
        await caller.next(Kind.BUSY, 5)


async def a_failing_reconfigure_is_answered_and_changes_nothing(world: World) -> None:
    async with attended(world, "rbbb", user_config="a") as (client, caller, _):
        why = await refusal(client, Reconfigure(spec(user_config="broken", num_replicas=7), 3))
        assert why.endswith("ValueError: no such threshold")
        assert await ask(caller, 1, "rank") == (1, 1)


async def health_and_stats_are_told(world: World) -> None:
    async with attended(world, "rccc", user_config="a") as (client, _, _), asyncio.timeout(WITHIN_S):
        await client.ask(CheckHealth())
        await client.ask(Reconfigure(spec(user_config="unwell"), 1))
        assert (await refusal(client, CheckHealth())).endswith("ConnectionError: the database is away")
        assert msgspec.msgpack.decode(await client.ask(RecordStats())) == {"told": 2.0}


async def a_replica_that_has_served_enough_reports_it(world: World) -> None:
    async with attended(world, "rddd", max_requests=1) as (_, caller, reports), asyncio.timeout(WITHIN_S):
        await ask(caller, 1, "rank")
        assert await reports.get() == Worn("requests served: 1 (max_requests)")
        await ask(caller, 2, "rank")
        assert reports.empty()


async def a_request_that_will_not_be_cancelled_is_reported(world: World) -> None:
    async with attended(world, "reee", cancel_grace_s=0.05) as (_, caller, reports), asyncio.timeout(WITHIN_S):
        call(caller, 1, "stubborn")
        await ask(caller, 2, "rank")
        caller.channel.send(Kind.CANCEL, 1)
        report = await reports.get()
        assert "Attended.stubborn at " in report.reason
        assert "conformance_control.py:" in report.reason


CONTROL = (
    a_replica_follows_its_new_settings,
    a_failing_reconfigure_is_answered_and_changes_nothing,
    health_and_stats_are_told,
    a_replica_that_has_served_enough_reports_it,
    a_request_that_will_not_be_cancelled_is_reported,
)
