"""From the user's ``AutoscalingConfig`` to the record that the controller gets.

Defaults are resolved here, once: the controller sees numbers, and a policy only where the user has written one. Such
a policy is imported now, so that a wrong path is an error of the deploy and not of the first decision, and travels
pickled, like a deployment's class; only the process that asks policies unpickles it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from salver.errors import ConfigurationError, SerializationError, placed
from salver.records import AutoscalingSpec, CodeContext, PolicySpec
from salver.serve.building.fingerprint import code_fingerprint
from salver.serve.building.import_path import import_target
from salver.serve.config import AggregationFunction, AutoscalingConfig, AutoscalingPolicy
from salver.serve.validation import import_string
from salver.wire.payload import dump_definition

_BUILT_IN = {
    f"{package}.serve.autoscaling_policy.{name}"
    for package in ("salver", "ray")
    for name in ("default_autoscaling_policy", "replica_queue_length_autoscaling_policy")
}


def autoscaling_spec(config: AutoscalingConfig, code: CodeContext) -> AutoscalingSpec:
    """``config`` with its defaults resolved.

    Args:
        code: where the modules of a policy of the user's are.

    Raises:
        ConfigurationError: the policy's import path names nothing, or no policy.
        Exception: whatever the policy's module raises while it is imported.
    """
    with placed("policy"):
        policy = policy_spec(config.policy, code)
    return AutoscalingSpec(
        min_replicas=config.min_replicas,
        initial_replicas=config.initial_replicas,
        max_replicas=config.max_replicas,
        target_ongoing_requests=config.target_ongoing_requests,
        look_back_period_s=config.look_back_period_s,
        upscaling_factor=config.get_upscaling_factor(),
        downscaling_factor=config.get_downscaling_factor(),
        upscale_delay_s=config.upscale_delay_s,
        downscale_delay_s=config.downscale_delay_s,
        downscale_to_zero_delay_s=config.downscale_to_zero_delay_s,
        aggregation=str(config.aggregation_function),
        policy=policy,
        wants_stats=policy is not None,
    )


def config_of(spec: AutoscalingSpec) -> AutoscalingConfig:
    """What ``spec`` was made of, but for the policy: what a policy of the user's is shown."""
    return AutoscalingConfig(
        min_replicas=spec.min_replicas,
        initial_replicas=spec.initial_replicas,
        max_replicas=spec.max_replicas,
        target_ongoing_requests=spec.target_ongoing_requests,
        look_back_period_s=spec.look_back_period_s,
        upscaling_factor=spec.upscaling_factor,
        downscaling_factor=spec.downscaling_factor,
        upscale_delay_s=spec.upscale_delay_s,
        downscale_delay_s=spec.downscale_delay_s,
        downscale_to_zero_delay_s=spec.downscale_to_zero_delay_s,
        aggregation_function=AggregationFunction(spec.aggregation),
    )


def policy_spec(policy: AutoscalingPolicy, code: CodeContext) -> PolicySpec | None:
    """The user's policy, of one deployment or of an application; None for the built-in one. Raises as above."""
    name = import_string(policy.policy_function)
    if name.replace(":", ".") in _BUILT_IN:
        return None
    with placed("policy_function"):
        target = _policy_target(policy.policy_function, name)
        try:
            definition = dump_definition((target, code_fingerprint(code)))
        except SerializationError as error:
            raise ConfigurationError(f"autoscaling policy {name}: {error}") from error
    return PolicySpec(definition=definition, name=name, kwargs=policy.policy_kwargs, code=code)


def under_application_policy(spec: AutoscalingSpec) -> AutoscalingSpec:
    """``spec`` of a deployment for which its application's policy decides.

    Raises:
        ConfigurationError: it has a policy of its own; only one can decide.
    """
    if spec.policy is not None:
        raise ConfigurationError(
            f"autoscaling_config.policy={spec.policy.name!r}: cannot be set together with the application's "
            "autoscaling_policy, which decides for all of its deployments"
        )
    return msgspec.structs.replace(spec, wants_stats=True)


def _policy_target(policy_function: str | Callable[..., Any], name: str) -> Callable[..., Any]:
    target = import_target(policy_function) if isinstance(policy_function, str) else policy_function
    calls = not inspect.isclass(target) or any("__call__" in vars(base) for base in target.__mro__)
    if not callable(target) or not calls:
        raise ConfigurationError(
            f"autoscaling policy {name}: must be a function of an AutoscalingContext, or a class with __call__"
        )
    return target
