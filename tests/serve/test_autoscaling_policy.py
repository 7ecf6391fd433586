"""What users write about autoscaling, and what becomes of it: configurations, policies, their answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from salver.controller.policy_messages import Failure, Reading
from salver.errors import ConfigurationError
from salver.records import AutoscalingSpec, CodeContext, DeploymentId, PolicySpec
from salver.serve.autoscaling_policy import default_autoscaling_policy, replica_queue_length_autoscaling_policy
from salver.serve.building.autoscaling_spec import (
    autoscaling_spec,
    config_of,
    policy_spec,
    under_application_policy,
)
from salver.serve.building.import_path import ImportPathError
from salver.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from salver.serve.context import ReplicaID
from salver.serve.policies.hosted_policy import HostedPolicy
from salver.serve.policies.policy_readings import Readings
from salver.wire.payload import dump_definition

CODE = CodeContext(sys_path=("/somewhere",), env_vars={"A": "b"})
D, E = DeploymentId("app", "d"), DeploymentId("app", "e")


@pytest.fixture(autouse=True)
def same_import_path() -> Iterator[None]:
    """Loading a policy gives this process the import path of the policy's code."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def context(deployment: DeploymentId = D, **values: Any) -> AutoscalingContext:
    known: dict[str, Any] = {
        "deployment_id": deployment,
        "deployment_name": deployment.name,
        "app_name": deployment.app,
        "current_num_replicas": 2,
        "target_num_replicas": 3,
        "total_num_requests": 5.0,
        "config": AutoscalingConfig(max_replicas=9),
    }
    return AutoscalingContext(**{**known, **values})


def everything_waits(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    return ctx.total_num_requests, {}


# --- the built-in policies ----------------------------------------------------------------------------------


def test_the_built_in_policy_says_what_the_load_needs() -> None:
    assert default_autoscaling_policy(context()) == (2.5, {})
    assert replica_queue_length_autoscaling_policy(context(total_num_requests=0.0, policy_state={"a": 1})) == (
        0,
        {"a": 1},
    )


@pytest.mark.parametrize(("requests", "target", "needed"), [(0.0, 0, 0), (1.0, 0, 2), (0.0, 3, 3), (50.0, 4, 4)])
def test_without_replicas_it_says_what_a_cold_start_needs(requests: float, target: int, needed: int) -> None:
    config = AutoscalingConfig(max_replicas=9, upscaling_factor=1.5)
    asked = context(current_num_replicas=0, target_num_replicas=target, total_num_requests=requests, config=config)
    assert default_autoscaling_policy(asked) == (needed, {})


# --- configurations -----------------------------------------------------------------------------------------


def test_every_field_gets_to_the_controller() -> None:
    config = AutoscalingConfig(
        min_replicas=1,
        initial_replicas=3,
        max_replicas=9,
        target_ongoing_requests=4.5,
        look_back_period_s=7.0,
        upscaling_factor=1.5,
        downscaling_factor=0.5,
        upscale_delay_s=1.0,
        downscale_delay_s=2.0,
        downscale_to_zero_delay_s=3.0,
        aggregation_function="max",  # type: ignore[arg-type]
    )
    spec = autoscaling_spec(config, CODE)
    assert spec == AutoscalingSpec(1, 3, 9, 4.5, 7.0, 1.5, 0.5, 1.0, 2.0, 3.0, "max", None, False)
    assert config_of(spec) == config


def test_defaults_are_those_of_the_record() -> None:
    assert autoscaling_spec(AutoscalingConfig(), CODE) == AutoscalingSpec()


@pytest.mark.parametrize(
    ("given", "upscaling", "downscaling"),
    [
        ({}, 1.0, 1.0),
        ({"smoothing_factor": 0.5}, 0.5, 0.5),
        ({"smoothing_factor": 0.5, "upscale_smoothing_factor": 2.0}, 2.0, 0.5),
        ({"downscale_smoothing_factor": 0.1, "downscaling_factor": 0.2, "upscaling_factor": 3.0}, 3.0, 0.2),
    ],
)
def test_deprecated_factors_count_where_the_new_ones_are_not_set(
    given: dict[str, float], upscaling: float, downscaling: float
) -> None:
    spec = autoscaling_spec(AutoscalingConfig(**given), CODE)
    assert (spec.upscaling_factor, spec.downscaling_factor) == (upscaling, downscaling)


# --- policies in configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        default_autoscaling_policy,
        "salver.serve.autoscaling_policy:default_autoscaling_policy",
        "ray.serve.autoscaling_policy:default_autoscaling_policy",
        "ray.serve.autoscaling_policy.replica_queue_length_autoscaling_policy",
    ],
)
def test_the_built_in_policy_needs_no_process(policy: str | Callable[..., Any]) -> None:
    assert policy_spec(AutoscalingPolicy(policy_function=policy), CODE) is None


def test_a_policy_travels_with_its_arguments_and_where_its_code_is() -> None:
    policy = AutoscalingPolicy(policy_function=everything_waits, policy_kwargs={"step": 2})
    spec = autoscaling_spec(AutoscalingConfig(max_replicas=2, policy=policy), CODE)
    assert spec.wants_stats
    assert spec.policy is not None
    assert spec.policy.name == f"{__name__}:everything_waits"
    assert (spec.policy.kwargs, spec.policy.code) == ({"step": 2}, CODE)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        (f"{__name__}:everything_wait", "Did you mean 'everything_waits'"),
        (f"{__name__}:D", "must be a function of an AutoscalingContext, or a class with __call__"),
        (f"{__name__}:Readings", "must be a function of an AutoscalingContext, or a class with __call__"),
        ("no_such_module:policy", "No module named 'no_such_module'"),
    ],
)
def test_a_wrong_policy_is_an_error_of_the_deploy(target: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part) as raised:
        policy_spec(AutoscalingPolicy(policy_function=target), CODE)
    assert isinstance(raised.value, ImportPathError) or "autoscaling policy" in str(raised.value)


def test_only_one_policy_can_decide() -> None:
    policy = AutoscalingPolicy(policy_function=everything_waits)
    assert under_application_policy(autoscaling_spec(AutoscalingConfig(), CODE)).wants_stats
    with pytest.raises(ConfigurationError, match="cannot be set together with the application's autoscaling_policy"):
        under_application_policy(autoscaling_spec(AutoscalingConfig(policy=policy), CODE))


# --- answers --------------------------------------------------------------------------------------------------


def hosted(function: Callable[..., Any]) -> HostedPolicy:
    return HostedPolicy(PolicySpec(dump_definition((function, "")), "policy"))


def with_end(error: BaseException) -> Callable[..., Any]:
    def policy(ctx: object) -> object:
        raise error

    return policy


@pytest.mark.parametrize(("number", "replicas"), [(0, 0), (3, 3), (2.2, 3), (3.0000000000001, 3), (0.0, 0)])
def test_numbers_are_rounded_up(number: float, replicas: int) -> None:
    assert hosted(lambda ctx: (number, {"a": 1})).decide_for(context()) == (replicas, {"a": 1})
    assert hosted(lambda ctx: (number, None)).decide_for(context()) == (replicas, {})


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (None, "it returned None, not a pair"),
        (5, "it returned 5, not a pair"),
        ((1, {}, {}), "not a pair"),
        (("3", {}), "it asks for '3' replicas"),
        ((True, {}), "it asks for True replicas"),
        ((-1, {}), "it asks for -1 replicas"),
        ((float("nan"), {}), "it asks for nan replicas"),
        ((float("inf"), {}), "it asks for inf replicas"),
        ((10**400, {}), "replicas, which is no number"),
        (([], {}), "it asks for [] replicas"),
        ((3, "state"), "its state is 'state', not a dict"),
        ((3, "x" * 10_000), "xxx…, not a dict"),
    ],
)
def test_nonsense_is_a_failure_that_says_what_was_returned(answer: object, part: str) -> None:
    failure = hosted(lambda ctx: answer).decide_for(context())
    assert isinstance(failure, Failure)
    assert part in failure.message
    assert len(failure.message) < 400


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration(), MemoryError()]
)
def test_whatever_a_policy_raises_is_a_failure(error: BaseException) -> None:
    for failure in (hosted(with_end(error)).decide_for(context()), hosted(with_end(error)).decide_for_all({})):
        assert isinstance(failure, Failure)
        assert failure.message.startswith(type(error).__name__)
        assert f"{__file__}, line " in failure.message
        assert "Traceback" in failure.traceback


def test_a_class_gets_its_arguments_once() -> None:
    class Policy:
        def __init__(self, most: int) -> None:
            self.most = most

        def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
            self.most += 1
            return self.most, {}

    policy = HostedPolicy(PolicySpec(dump_definition((Policy, "")), "policy", {"most": 4}))
    assert [policy.decide_for(context()) for _ in range(2)] == [(5, {}), (6, {})]


def test_a_constructor_that_raises_is_told_each_time_it_is_asked() -> None:
    class Policy:
        def __init__(self) -> None:
            raise OSError("no database")

        def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
            return 1, {}

    policy = hosted(Policy)
    policy.load()
    for _ in range(2):
        failure = policy.decide_for(context())
        assert isinstance(failure, Failure)
        assert "no database" in failure.message


def test_an_application_s_policy_may_leave_deployments_out() -> None:
    contexts = {D: context(), E: context(E)}
    assert hosted(lambda every: ({D: 2.5}, {E: {"seen": True}})).decide_for_all(contexts) == (
        {D: 3},
        {E: {"seen": True}},
    )
    assert hosted(lambda every: ({"app#e": 1}, None)).decide_for_all(contexts) == ({E: 1}, {})


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ((3, {}), "it returned 3, not a dict by deployment"),
        (({"other": 3}, {}), "it decides for 'other', which is no deployment that it was asked about"),
        (({D: -3}, {}), "it asks for -3 replicas"),
        (({D: 3}, {D: 7}), "its state is 7, not a dict"),
        ({D: 3}, "not a pair of replicas and state"),
    ],
)
def test_nonsense_of_an_application_s_policy_is_a_failure(answer: object, part: str) -> None:
    failure = hosted(lambda every: answer).decide_for_all({D: context()})
    assert isinstance(failure, Failure)
    assert part in failure.message


# --- what replicas record -------------------------------------------------------------------------------------


def test_recorded_numbers_are_kept_for_the_look_back_period() -> None:
    one, two = ReplicaID("r1", D), ReplicaID("r2", D)
    readings = Readings()
    for second in range(10):
        readings.add(one, Reading("app#d#r1", float(second), {"depth": float(second)}))
    readings.add(two, Reading("app#d#r2", 9.0, {"depth": 4.0, "rare": 1.0}))
    readings.keep([one, two], since_s=6.0)
    assert [each.timestamp for each in readings.raw()["depth"][one]] == [6.0, 7.0, 8.0, 9.0]
    assert readings.aggregated("mean") == {"depth": {one: 7.5, two: 4.0}, "rare": {two: 1.0}}
    assert readings.aggregated("max")["depth"][one] == 9.0
    assert readings.aggregated("min")["depth"][one] == 6.0
    assert [each.timestamp for each in readings.raw(1000.0)["depth"][two]] == [1009.0], "as the wall clock is now"
    readings.keep([two], since_s=100.0)
    assert readings.raw() == {}


def test_recorded_numbers_have_a_bound() -> None:
    readings, replica = Readings(), ReplicaID("r", D)
    for number in range(3000):
        readings.add(replica, Reading("app#d#r", float(number), {"depth": 1.0}))
    assert len(readings.raw()["depth"][replica]) == 1000
