"""Tables of ``salver status``, cell by cell."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console, RenderableType

from salver.cli.controller_health import counts_table, times_table
from salver.cli.status_table import deployments_table, overview
from salver.controller.api_records import StatusAnswer
from salver.engine.local.instance import InstanceInfo
from salver.records import DeploymentId
from salver.serve.schema import ControllerHealthMetrics, DurationStats
from salver.views import ApplicationView, DeploymentView, EndedReplica


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ({}, "-"),
        ({"memory": 512 << 20}, "memory 512 MiB"),
        ({"num_cpus": 0, "memory": 1.5 * (1 << 30)}, "memory 1.5 GiB"),
        (
            {"num_cpus": 0.5, "num_gpus": 1, "memory": 100, "resources": {"npu": 2}},
            "0.5 CPU, 1 GPU, memory 100 bytes, 2 npu",
        ),
        ({"num_gpus": None, "memory": None}, "-"),
    ],
)
def test_resources_are_all_that_a_deployment_states(stated: dict[str, Any], shown: str) -> None:
    deployment = DeploymentView("D", "HEALTHY", "", "", 1, {}, (), {"ray_actor_options": stated})
    table = deployments_table([ApplicationView("app", "RUNNING", "", "/", "D", 0.0, (deployment,))])
    (column,) = (each for each in table.columns if each.header == "RESOURCES")
    assert [str(cell) for cell in column.cells] == [shown]


def ended(ago_s: float, cause: str = "exited", replica: str = "app#D#x") -> EndedReplica:
    at_s = time.time() - ago_s
    return EndedReplica(replica, DeploymentId("app", "D"), "v", 1, at_s - 9, at_s, cause, "was killed by SIGKILL")


def printed(table: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def status_with(*those: EndedReplica, message: str = "") -> str:
    deployment = DeploymentView("D", "HEALTHY", "", message, 1, {}, (), {}, ended=those)
    view = ApplicationView("app", "RUNNING", "", "/", "D", 0.0, (deployment,))
    return printed(overview(StatusAnswer(InstanceInfo("i", 1, "h", 8000, 1, 0.0, "0"), 2, (), (view,)), [view]))


def test_what_has_failed_of_late_is_a_line_where_no_message_says_it() -> None:
    lines = status_with(ended(3000), ended(500), ended(90, replica="app#D#y")).splitlines()
    assert lines[1:3] == [
        "app is RUNNING",
        "  D: 2 replicas ended in the last 10m; 1m ago app#D#y was killed by SIGKILL",
    ]
    assert "  D: 1 replica ended in the last 10m; " in status_with(ended(5), ended(4, "scaled_down"))
    for quiet in (status_with(ended(601)), status_with(ended(5, "updated")), status_with(ended(5), message="said")):
        assert "ended in the last" not in quiet


def test_how_the_controller_keeps_up() -> None:
    late = DurationStats(mean=0.001, std=0, min=0, max=0.25, p50=0.0005, p90=0.002, p99=0.1, count=512)
    health = ControllerHealthMetrics(
        timestamp=1000.0,
        controller_start_time=900.0,
        uptime_s=100.0,
        last_control_loop_time=995.0,
        num_control_loops=200,
        loops_per_second=2.0,
        event_loop_delay_stats_s=late,
        process_memory_mb=37.25,
        cpu_s=1.5,
    )
    assert printed(times_table(health)).splitlines()[1].split() == (
        ["event", "loop", "late", "1.00", "0.50", "2.00", "100.00", "250.00", "512"]
    )
    assert printed(times_table(health)).splitlines()[3].split()[-6:] == ["-"] * 6
    counts = printed(counts_table(health))
    assert "200 (2 a second, the last 5s ago)" in counts
    assert "1.50 s (1.5% of a core)" in counts
    assert "only in memory" not in counts
    unsaved = health.model_copy(update={"num_unsaved_records": 3})
    assert "3 events: the disk was full" in printed(counts_table(unsaved))
