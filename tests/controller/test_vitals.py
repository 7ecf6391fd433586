"""How the controller itself is: measured while it works, seen by who asks, nothing made up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from harness.waiting import eventually
from salver.controller.client import ControlClient
from salver.controller.instance_details import ControllerHealthMetrics
from salver.controller.vitals import WINDOW, Vitals, duration_stats
from salver.records import AutoscalingSpec
from salver.serve.schema import ServeInstanceDetails

from .control_scene import Server, application

BLOCKED_S = 0.6
OF_RAY_SERVE = {
    "timestamp",
    "controller_start_time",
    "uptime_s",
    "last_control_loop_time",
    "num_control_loops",
    "loop_duration_s",
    "loops_per_second",
    "last_sleep_duration_s",
    "expected_sleep_duration_s",
    "event_loop_delay_s",
    "num_asyncio_tasks",
    "handle_ingest_duration_ms",
    "replica_ingest_duration_ms",
    "metrics_decompress_duration_ms",
    "columnar_decode_duration_ms",
    "handle_reports_received",
    "replica_reports_received",
    "ingest_reports_received",
    "ingest_cpu_fraction",
    "deployment_state_update_duration_s",
    "application_state_update_duration_s",
    "proxy_state_update_duration_s",
    "node_update_duration_s",
    "handle_metrics_delay_ms",
    "replica_metrics_delay_ms",
    "process_memory_mb",
}


def health(client: ControlClient) -> dict[str, Any]:
    found: dict[str, Any] = client.details()["controller_health_metrics"]
    return found


def test_what_a_window_of_times_says() -> None:
    stats = duration_stats([4.0, 1.0, 2.0, 3.0])
    assert stats is not None
    assert (stats.mean, stats.min, stats.max, stats.count) == (2.5, 1.0, 4.0, 4)
    assert stats.std == pytest.approx(1.118034)
    assert (stats.p50, stats.p90, stats.p99) == (2.0, 4.0, 4.0)
    of_one = duration_stats([7.0])
    assert of_one is not None
    assert (of_one.mean, of_one.std, of_one.p50, of_one.p99) == (7.0, 0.0, 7.0, 7.0)
    assert duration_stats([]) is None


def test_the_window_is_bounded_and_being_early_is_not_late() -> None:
    async def collect() -> ControllerHealthMetrics:
        vitals = Vitals()
        vitals.woke(0.25, 9.0)
        for _ in range(WINDOW):
            vitals.woke(0.25, -0.001)
            vitals.decided(0.002)
        vitals.decided(0.004)
        return vitals.collect(subscribers=1, reports=2, commands=3, unsaved=4)

    found = asyncio.run(collect())
    late, took = found.event_loop_delay_stats_s, found.loop_duration_s
    assert late is not None
    assert took is not None
    assert (late.count, late.max, found.event_loop_delay_s, found.last_sleep_duration_s) == (WINDOW, 0.0, 0.0, 0.25)
    assert (took.count, took.max, found.num_control_loops) == (WINDOW, 0.004, WINDOW + 1)
    assert (found.num_subscribers, found.handle_reports_received, found.num_commands) == (1, 2, 3)
    assert found.num_unsaved_records == 4


def test_names_are_those_of_ray_serve_and_what_is_not_measured_is_null(client: ControlClient) -> None:
    found = health(client)
    assert set(found) >= OF_RAY_SERVE
    assert found["num_control_loops"] == 1, "it has recovered, and nothing else"
    assert found["controller_start_time"] <= found["last_control_loop_time"] <= found["timestamp"]
    assert found["loop_duration_s"]["count"] == 1
    assert found["process_memory_mb"] > 1
    assert found["num_asyncio_tasks"] >= 1
    assert found["cpu_s"] > 0
    unmeasured = {name for name, value in found.items() if value is None}
    assert unmeasured >= {"event_loop_delay_s", "expected_sleep_duration_s", "event_loop_delay_stats_s", "load_age_s"}
    assert unmeasured >= {name for name in OF_RAY_SERVE if name.endswith(("_update_duration_s", "_delay_ms"))}
    ServeInstanceDetails(**client.details())


def test_a_loop_that_is_held_up_is_seen_to_be_late(server: Server, client: ControlClient) -> None:
    """By the timer that counts the load, as one replica scales by itself."""
    scaling = AutoscalingSpec(min_replicas=1, max_replicas=2)
    spec = application()
    deployment = msgspec.structs.replace(spec.deployments[0], autoscaling=scaling)
    client.deploy(msgspec.structs.replace(spec, deployments=(deployment,)))
    eventually("the load is counted again and again", lambda: health(client)["load_age_s"] is not None, 30)
    before = health(client)
    assert before["expected_sleep_duration_s"] == 0.25
    server.call(lambda: time.sleep(BLOCKED_S))
    eventually(
        "the delay is measured",
        lambda: health(client)["event_loop_delay_stats_s"]["max"] >= BLOCKED_S - 0.25,
        30,
    )
    after = health(client)
    assert after["load_age_s"]["max"] >= BLOCKED_S, "what decisions went by was that old"
    assert after["num_control_loops"] > before["num_control_loops"], "each count is a decision"
