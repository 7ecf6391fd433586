"""Replicas that are replaced although they work: enough served, too much memory, requests that will not end."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from harness.load import ConstantLoad
from harness.waiting import eventually
from salver import serve

WITHIN_S = 60.0


@serve.deployment(num_replicas=2, max_ongoing_requests=20, max_requests=100)
class Tired:
    async def __call__(self) -> int:
        await asyncio.sleep(0.005)
        return os.getpid()


@serve.deployment(max_ongoing_requests=20, max_rss="300MiB")
class Leaky:
    def __init__(self) -> None:
        self.leak: list[bytes] = []

    async def __call__(self, request: Any) -> int:
        if request.url.path == "/leak":
            self.leak.append(b"x" * 2**24)
        return os.getpid()


@serve.deployment(max_ongoing_requests=5, cancel_grace_s=0.5, graceful_shutdown_timeout_s=1)
class Stubborn:
    async def __call__(self, request: Any) -> int:
        while request.url.path == "/for-ever":
            Path(request.query_params["mark"]).touch()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        return os.getpid()


def running(deployment: str) -> set[int | None]:
    view = serve.status().applications["default"].deployments[deployment]
    return {replica.pid for replica in view.replicas if replica.state == "RUNNING"}


def test_replicas_that_have_served_enough_are_replaced_without_a_lost_request(instance_url: str) -> None:
    serve.run(Tired.bind())
    first = running("Tired")
    with ConstantLoad(instance_url, rate=100) as load:
        eventually("both are replaced", lambda: not first & running("Tired") and len(running("Tired")) == 2, WITHIN_S)
        load.wait_for(50)
    assert load.failures() == []
    for pid in first:
        served = sum(each.body == str(pid).encode() for each in load.results)
        assert served >= 90, "it was not replaced before its time"


def test_a_replica_that_leaks_is_replaced_without_a_lost_request(instance_url: str) -> None:
    serve.run(Leaky.bind())
    (leaky,) = running("Leaky")
    with ConstantLoad(instance_url, rate=50) as load:
        for _ in range(25):
            assert requests.get(f"{instance_url}leak", timeout=WITHIN_S).status_code == 200
        eventually("it is replaced", lambda: leaky not in running("Leaky") and len(running("Leaky")) == 1, WITHIN_S)
        load.wait_for(20)
    assert load.failures() == []


def test_a_replica_whose_request_will_not_be_cancelled_is_replaced(instance_url: str, tmp_path: Path) -> None:
    serve.run(Stubborn.bind())
    (stuck,) = running("Stubborn")
    with ConstantLoad(instance_url, rate=50) as load:
        with socket.create_connection(("127.0.0.1", urlsplit(instance_url).port or 0), WITHIN_S) as client:
            client.sendall(f"GET /for-ever?mark={tmp_path}/mark HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            eventually("it runs", (tmp_path / "mark").exists, WITHIN_S)
        eventually("it is replaced", lambda: stuck not in running("Stubborn") and running("Stubborn"), WITHIN_S)
        load.wait_for(20)
    assert load.failures() == []
