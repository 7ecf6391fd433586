"""Tables of ``salver status``, cell by cell."""

from __future__ import annotations

from typing import Any

import pytest

from salver.cli.status_table import deployments_table
from salver.views import ApplicationView, DeploymentView


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
