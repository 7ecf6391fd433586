"""What replicas reserve, and what machines are said to have."""

from __future__ import annotations

from typing import Any

import pytest

from salver.engine.local.capacity import NOTHING_STATED, StatedCapacity
from salver.records import Resources
from salver.serve.building.resources import MachineOptions, resources_of
from salver.serve.options import DeploymentOptions
from salver.serve.validation import OptionsError


def reserved(**actor: Any) -> Resources:
    return resources_of(DeploymentOptions(ray_actor_options=actor))


def test_who_states_nothing_reserves_nothing() -> None:
    assert resources_of(DeploymentOptions()) == Resources()
    assert reserved() == Resources()
    assert reserved(runtime_env={"env_vars": {"A": "1"}}) == Resources()


def test_what_is_stated_is_reserved() -> None:
    assert reserved(num_cpus=1) == Resources(num_cpus=1)
    assert reserved(num_cpus=0, num_gpus=None) == Resources()
    assert reserved(num_gpus=0.5, memory=1000) == Resources(num_gpus=0.5, memory=1000)
    assert reserved(resources={"licence": 2, "none": 0}) == Resources(custom={"licence": 2})


def test_stated_stays_stated_through_changes_of_other_options() -> None:
    options = DeploymentOptions(ray_actor_options={"num_cpus": 1}).changed({"max_ongoing_requests": 7})
    assert resources_of(options) == Resources(num_cpus=1)
    options = DeploymentOptions(max_ongoing_requests=7).changed({"max_queued_requests": 7})
    assert resources_of(options) == Resources()


def test_a_type_of_gpu_is_a_little_of_a_resource() -> None:
    assert reserved(num_gpus=1, accelerator_type="H200") == Resources(
        num_gpus=1, custom={"accelerator_type:H200": 0.001}
    )
    assert reserved(accelerator_type="T4", resources={"accelerator_type:T4": 1}).custom == {"accelerator_type:T4": 1}


@pytest.mark.parametrize("amount", [1.5, 2.25])
def test_fractions_above_one_gpu_are_refused_where_they_are_written(amount: float) -> None:
    with pytest.raises(OptionsError, match=rf"ray_actor_options\.num_gpus={amount}: must be whole"):
        reserved(num_gpus=amount)
    assert reserved(num_gpus=2.0).num_gpus == 2


def test_what_a_machine_is_said_to_have() -> None:
    assert MachineOptions().for_launcher() == NOTHING_STATED
    said = MachineOptions(num_cpus=2, num_gpus=0, memory=10, resources={"licence": 1})
    assert said.for_launcher() == StatedCapacity(2, 0, 10, {"licence": 1})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_gpus": 0.5}, "num_gpus=0.5: must be an integer of at least 0, or None"),
        ({"num_cpus": -1}, "num_cpus=-1: must be a number of at least 0, or None"),
        ({"resources": {"CPU": 1}}, "must not contain 'CPU', which is stated with num_cpus"),
        ({"resources": {"a": -1}}, "must be a dict of names to numbers of at least 0"),
    ],
)
def test_machines_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError) as caught:
        MachineOptions(**wrong)
    assert message in str(caught.value)
