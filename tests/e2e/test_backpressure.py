"""How many requests a replica works on, who gets the next free slot, and what happens when queues are full."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from harness.waiting import eventually
from salver import serve
from salver.serve.exceptions import BackPressureError
from salver.serve.handle import DeploymentHandle

WITHIN_S = 60.0
SLOTS = 3


class Peak:
    """The largest number of calls that were ever inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.total = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.total += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


@serve.deployment(max_ongoing_requests=SLOTS)
class Worker:
    def __init__(self) -> None:
        self.peak = Peak()
        self.served: list[str] = []

    async def __call__(self) -> str:
        return await self.work("http")

    async def work(self, caller: str) -> str:
        with self.peak:
            self.served.append(caller)
            await asyncio.sleep(0.002)  # long enough for other requests to come in meanwhile
        return caller

    def work_in_thread(self, caller: str) -> str:
        with self.peak:
            self.served.append(caller)
            time.sleep(0.002)
        return caller

    def most_at_once(self) -> int:
        return self.peak.most

    def order(self) -> list[str]:
        return self.served


@serve.deployment(max_ongoing_requests=100)
class Front:
    """Another caller of the worker: a replica."""

    def __init__(self, worker: DeploymentHandle[Any]) -> None:
        self.worker = worker

    async def __call__(self) -> str:
        return await self.worker.work.remote("front")

    async def many(self, count: int) -> list[str]:
        return await asyncio.gather(*(self.worker.work.remote("replica") for _ in range(count)))


@serve.deployment(max_ongoing_requests=1, max_queued_requests=2)
class Gate:
    """Holds every request until a file exists."""

    def __init__(self, folder: str) -> None:
        self.opened = Path(folder, "opened")

    def pid(self) -> int:
        return os.getpid()

    def __call__(self) -> str:
        deadline = time.monotonic() + WITHIN_S
        while not self.opened.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return "through"


@serve.deployment(max_ongoing_requests=100)
class BeforeTheGate:
    def __init__(self, gate: DeploymentHandle[Any]) -> None:
        self.gate = gate

    async def __call__(self) -> str:
        return await self.gate.remote()


@pytest.mark.parametrize("method", ["work", "work_in_thread"])
def test_a_replica_never_works_on_more_than_its_limit(instance_url: str, method: str) -> None:
    """Three callers compete for one replica: the HTTP proxy, another replica, and this process."""
    serve.run(Worker.bind(), name="worker")
    worker = serve.get_app_handle("worker")
    front = serve.run(Front.bind(Worker.bind()), name="front", route_prefix="/front")
    inner = serve.get_deployment_handle("Worker", "front")

    def by_http(_: int) -> str:
        return requests.get(f"{instance_url}front", timeout=WITHIN_S).text

    with ThreadPoolExecutor(16) as pool:
        from_front = front.many.remote(200)
        from_here = [inner.options(method_name=method).remote("driver") for _ in range(200)]
        assert set(pool.map(by_http, range(100))) == {"front"}
        assert {response.result(timeout_s=WITHIN_S) for response in from_here} == {"driver"}
        assert set(from_front.result(timeout_s=WITHIN_S)) == {"replica"}
    assert inner.most_at_once.remote().result(timeout_s=WITHIN_S) == SLOTS
    assert worker.most_at_once.remote().result(timeout_s=WITHIN_S) == 0, "an application of its own"


def test_the_proxy_and_a_driver_share_a_replica(instance_url: str) -> None:
    """Each caller's requests go on while the other has more waiting than there are slots."""
    worker = serve.run(Worker.bind())

    def by_http(_: int) -> str:
        return requests.get(instance_url, timeout=WITHIN_S).text

    with ThreadPoolExecutor(12) as pool:
        from_here = [worker.work.remote("driver") for _ in range(600)]
        assert list(pool.map(by_http, range(60))) == ["http"] * 60
        assert {response.result(timeout_s=WITHIN_S) for response in from_here} == {"driver"}
    order = worker.order.remote().result(timeout_s=WITHIN_S)
    assert worker.most_at_once.remote().result(timeout_s=WITHIN_S) == SLOTS
    last_of_http = len(order) - 1 - order[::-1].index("http")
    assert "driver" in order[last_of_http:], "HTTP's 60 did not wait for all 600 of the driver's"
    window = order[order.index("http") : last_of_http]
    assert window.count("driver") >= 10, "nor did the driver's wait for HTTP's"


def test_a_full_queue_of_the_proxy_answers_503(instance_url: str, tmp_path: Path) -> None:
    serve.run(Gate.bind(str(tmp_path)))

    def get() -> requests.Response:
        return requests.get(instance_url, timeout=WITHIN_S)

    with ThreadPoolExecutor(5) as pool:
        requested = [pool.submit(get) for _ in range(5)]
        eventually("two are refused", lambda: sum(each.done() for each in requested) == 2, WITHIN_S)
        refused = [each.result() for each in requested if each.done()]
        (tmp_path / "opened").touch()
        answers = [each.result(WITHIN_S) for each in requested]
    assert [(each.status_code, each.text) for each in refused] == [
        (503, "Request dropped due to backpressure (num_queued_requests=2, max_queued_requests=2).")
    ] * 2
    assert sorted(each.status_code for each in answers) == [200, 200, 200, 503, 503]


def test_a_full_queue_of_a_handle_raises_at_once(instance_url: str, tmp_path: Path) -> None:
    handle = serve.run(Gate.bind(str(tmp_path)))
    handle.pid.remote().result(
        timeout_s=WITHIN_S
    )  # connects, so that requests are queued in the order in which they come
    held = [handle.remote() for _ in range(3)]
    with pytest.raises(BackPressureError) as caught:
        handle.remote().result(timeout_s=WITHIN_S)
    assert (caught.value.num_queued_requests, caught.value.max_queued_requests) == (2, 2)
    assert (caught.value.status_code, caught.value.retry_after_s) == (503, None)
    (tmp_path / "opened").touch()
    assert [each.result(timeout_s=WITHIN_S) for each in held] == ["through"] * 3
    assert handle.remote().result(timeout_s=WITHIN_S) == "through", "there is room again"


def test_slots_of_a_replica_that_is_being_connected_count(instance_url: str, tmp_path: Path) -> None:
    """The first requests of a process come before it has a connection; the free slot is theirs all the same."""
    handle = serve.run(Gate.bind(str(tmp_path)))
    requested = [handle.remote() for _ in range(5)]
    eventually("two are refused", lambda: sum("done" in repr(each) for each in requested) == 2, WITHIN_S)
    (tmp_path / "opened").touch()
    assert sorted(outcome(each.result) for each in requested) == ["BackPressureError"] * 2 + ["through"] * 3


def test_a_full_queue_further_down_is_answered_with_503(instance_url: str, tmp_path: Path) -> None:
    front = serve.run(BeforeTheGate.bind(Gate.bind(str(tmp_path))))
    held = [front.remote() for _ in range(4)]
    eventually("one is refused", lambda: any("done" in repr(each) for each in held), WITHIN_S)
    answer = requests.get(instance_url, timeout=WITHIN_S)
    assert answer.status_code == 503
    assert answer.text.startswith("Request dropped due to backpressure (num_queued_requests=2, ")
    (tmp_path / "opened").touch()
    outcomes = [outcome(each.result) for each in held]
    assert sorted(outcomes) == ["BackPressureError", "through", "through", "through"]


def outcome(result: Callable[..., Any]) -> str:
    try:
        return result(timeout_s=WITHIN_S)
    except BackPressureError as error:
        return type(error).__name__
