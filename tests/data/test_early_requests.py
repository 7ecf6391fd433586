"""Requests for applications that are still to come: they wait, within their time, and nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from salver.data.http import early
from salver.data.http.limits import HTTPLimits
from salver.wire.snapshot import Snapshot

from .proxy_scene import ProxyScene, serving
from .scene import run


class Answering:
    async def __call__(self, request: Any) -> str:
        return "here"


@asynccontextmanager
async def waiting_for_all() -> AsyncGenerator[ProxyScene]:
    """A proxy that has heard of no application, only that there will be one at ``/``."""
    async with serving(Answering, HTTPLimits()) as scene:
        await publish(scene, Snapshot(1, 2, awaited=("/",)))
        yield scene


async def until(condition: Callable[[], object]) -> None:
    """``run`` has a deadline for all of a test."""
    while not condition():
        await asyncio.sleep(0.002)


async def publish(scene: ProxyScene, table: Snapshot) -> None:
    scene.publisher.publish(msgspec.structs.replace(table, awaited=()))
    scene.publisher.await_applications(table.awaited)
    await until(lambda: scene.proxy._caller.snapshot == table)


async def early_clients(scene: ProxyScene, *requests: bytes) -> list[asyncio.Task[bytes]]:
    """Clients with these request lines and headers, all of whom have been heard."""

    async def ask(request: bytes) -> bytes:
        async with await scene.connect() as client:
            await client.send(request + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
            return await client.read_to_end()

    clients = [asyncio.create_task(ask(request)) for request in requests]
    await until(lambda: len(scene.proxy.ingress._early._waiting) == len(requests))
    return clients


GET = b"GET / HTTP/1.1"


def test_they_are_answered_once_the_application_is_deployed() -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            clients = await early_clients(scene, GET, GET, b"POST /x HTTP/1.1\r\nContent-Length: 0")
            assert b"503 Service Unavailable" in await scene.get(b"/-/healthz"), "its own paths answer at once"
            assert (await scene.get(b"/-/routes")).endswith(b"{}")
            await publish(scene, scene.table)
            for client in clients:
                answer = await client
                assert answer.startswith(b"HTTP/1.1 200 OK")
                assert answer.endswith(b"here")
            assert not scene.proxy.ingress._early._waiting

    run(test())


def test_without_an_application_in_the_end_they_are_not_found() -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            (client,) = await early_clients(scene, GET)
            await publish(scene, Snapshot(1, 3))
            assert (await client).startswith(b"HTTP/1.1 404 Not Found")
            assert (await scene.get()).startswith(b"HTTP/1.1 404 Not Found")

    run(test())


def test_the_nearest_prefix_counts_whether_it_is_deployed_or_to_come() -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            await publish(scene, msgspec.structs.replace(scene.table, awaited=("/", "/later")))
            assert (await scene.get(b"/now")).endswith(b"here")
            (client,) = await early_clients(scene, b"GET /later/x HTTP/1.1")
            await publish(scene, scene.table)
            assert (await client).endswith(b"here")

    run(test())


def test_their_time_is_what_they_say_or_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            monkeypatch.setattr(early, "LONGEST_S", 600.0)
            impatient = GET + b"\r\nx-request-timeout-seconds: 0.5"
            patient, hurried = await early_clients(scene, GET, impatient)
            answer = await hurried
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"\r\nretry-after: 1\r\n" in answer
            monkeypatch.setattr(early, "LONGEST_S", 0.5)
            assert b"\r\nretry-after: 1\r\n" in await scene.get()
            await publish(scene, scene.table)
            assert (await patient).endswith(b"here")

    run(test())


def test_the_time_that_it_waited_is_part_of_its_time() -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            (client,) = await early_clients(scene, GET + b"\r\nx-request-timeout-seconds: 1")
            (exchange,) = scene.proxy.ingress._early._waiting
            deadline = exchange._deadline
            table = msgspec.structs.replace(scene.table, deployments=())
            nobody = msgspec.structs.replace(scene.table.deployments[0], replicas=())
            await publish(scene, msgspec.structs.replace(table, deployments=(nobody,)))
            assert exchange._deadline == deadline
            assert (await client).startswith(b"HTTP/1.1 504 Gateway Timeout"), "as of any that waits for a replica"

    run(test())


def test_no_more_wait_than_there_is_room_for_and_those_who_left_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            monkeypatch.setattr(early, "_MOST", 2)
            gone, stays = await early_clients(scene, GET, GET)
            assert b"503 Service Unavailable" in await scene.get()
            gone.cancel()
            waiting = scene.proxy.ingress._early._waiting
            await until(lambda: any(each.abandoned for each in waiting))
            later = asyncio.create_task(scene.get())
            await until(lambda: scene.proxy.ingress._early._waiting is not waiting)
            await publish(scene, scene.table)
            assert (await stays).endswith(b"here")
            assert (await later).endswith(b"here")

    run(test())


def test_a_proxy_that_ends_does_not_let_them_wait() -> None:
    async def test() -> None:
        async with waiting_for_all() as scene:
            (client,) = await early_clients(scene, GET)
            await scene.proxy.drain()
            answer = await client
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"\r\nretry-after: 1\r\n" in answer

    run(test())
