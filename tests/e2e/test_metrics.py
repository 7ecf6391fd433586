"""Metrics of a running instance: what user code and the request path count reaches the control API and stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from harness.http import get
from harness.instance import SalverRun
from harness.waiting import eventually
from salver.controller.client import ControlClient
from salver.controller.http_exchange import exchange

WITHIN_S = 30.0

SHOP = """
import os
import threading
from salver import serve
from salver.serve.metrics import Counter, Gauge, Histogram

sold = Counter("shop_sold", "Things sold.", tag_keys=("item",))

@serve.deployment(num_replicas=2)
class Shop:
    def __init__(self):
        Gauge("shop_open").set(1)
        self.price = Histogram("shop_price", boundaries=[1, 10])

    def __call__(self, request):
        if "fail" in request.query_params:
            raise LookupError("sold out")
        sold.inc(tags={"item": "plate"})
        self.price.observe(5)
        return str(os.getpid())

app = Shop.bind()
"""

Tags = dict[str, str]


def metrics(run: SalverRun) -> dict[str, list[dict[str, Any]]]:
    """Series of every metric, by name, as the control API answers."""
    status, body = exchange(run.folder / "control.sock", "GET", "/api/serve/metrics", None, WITHIN_S)
    assert status == 200
    return {family["name"]: family["series"] for family in msgspec.json.decode(body)}


def total(run: SalverRun, name: str, **tags: str) -> float:
    """Sum of a metric over the series that have these tags; of a histogram, of its counts."""
    return sum(
        series["value"] if "value" in series else series["count"]
        for series in metrics(run).get(name, [])
        if tags.items() <= series["tags"].items()
    )


def becomes(run: SalverRun, expected: float, name: str, **tags: str) -> None:
    eventually(f"{name}{tags} is {expected:g}", lambda: total(run, name, **tags) == expected, WITHIN_S)


def shop(salver_run: Callable[..., SalverRun]) -> SalverRun:
    return salver_run("app:app", "--port", "0", files={"app.py": SHOP})


def visit_both(run: SalverRun, requests: int) -> set[int]:
    """Send that many requests; the pids of the replicas, both of which had some."""
    pids = {int(get(run.url).body) for _ in range(requests)}
    assert pids == set(run.pids()["replica"])
    return pids


def test_user_metrics_of_all_replicas(salver_run: Callable[..., SalverRun]) -> None:
    run = shop(salver_run)
    visit_both(run, 60)
    becomes(run, 60, "shop_sold", item="plate", deployment="Shop", application="default")
    replicas = {series["tags"]["replica"] for series in metrics(run)["shop_sold"]}
    shown = run.status()["applications"]["default"]["deployments"]["Shop"]["replicas"]
    assert replicas == {each["replica_id"] for each in shown}
    becomes(run, 60, "shop_price", deployment="Shop")
    for series in metrics(run)["shop_price"]:
        assert series["sum"] == 5 * series["count"]
        assert series["buckets"] == [0, series["count"], 0]
    becomes(run, 2, "shop_open", deployment="Shop")


def test_the_request_path_counts_by_itself(salver_run: Callable[..., SalverRun]) -> None:
    run = shop(salver_run)
    for _ in range(10):
        assert get(run.url).status == 200
    for _ in range(3):
        assert get(f"{run.url}?fail").status == 500
    tags = {"deployment": "Shop", "application": "default", "route": "/"}
    becomes(run, 10, "serve_deployment_request_counter", **tags)
    becomes(run, 3, "serve_deployment_error_counter", exception_type="LookupError", **tags)
    becomes(run, 13, "serve_deployment_processing_latency_ms", **tags)
    becomes(run, 0, "serve_replica_processing_queries", deployment="Shop")
    becomes(run, 2, "serve_deployment_replica_starts", deployment="Shop")
    http = {"method": "GET", "application": "default", "route": "/"}
    becomes(run, 10, "serve_num_http_requests", status_code="200", **http)
    becomes(run, 3, "serve_num_http_error_requests", error_code="500", **http)
    becomes(run, 13, "serve_http_request_latency_ms", **http)
    becomes(run, 0, "serve_num_ongoing_http_requests")


def test_totals_survive_the_death_of_a_replica(salver_run: Callable[..., SalverRun]) -> None:
    run = shop(salver_run)
    pids = visit_both(run, 40)
    becomes(run, 40, "shop_sold")
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    eventually("it is replaced", lambda: len(set(run.pids()["replica"]) - {victim}) == 2, WITHIN_S)
    becomes(run, 2, "shop_open")  # its gauge went with it, the new one's came
    assert total(run, "shop_sold", item="plate", deployment="Shop") == 40
    assert total(run, "shop_price") == 40
    gone = [series["tags"] for series in metrics(run)["shop_sold"] if "replica" not in series["tags"]]
    assert gone == [{"item": "plate", "deployment": "Shop", "application": "default"}]
    for _ in range(10):
        get(run.url)
    becomes(run, 50, "shop_sold")


def test_the_last_counts_of_a_drained_replica_are_not_lost(salver_run: Callable[..., SalverRun]) -> None:
    run = shop(salver_run)
    for _ in range(50):
        get(run.url)
    assert ControlClient(run.folder / "control.sock").delete("default", WITHIN_S), "less than a second later"
    becomes(run, 50, "shop_sold")
    assert total(run, "shop_open") == 0


def test_another_controller_learns_what_there_is(salver_run: Callable[..., SalverRun]) -> None:
    run = shop(salver_run)
    visit_both(run, 30)
    becomes(run, 30, "shop_sold")
    [controller] = run.pids()["controller"]
    os.kill(controller, signal.SIGKILL)
    eventually("there is another", lambda: run.pids()["controller"] not in ([], [controller]), WITHIN_S)
    becomes(run, 30, "shop_sold")
    get(run.url)
    becomes(run, 31, "shop_sold")
