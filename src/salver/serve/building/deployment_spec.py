"""One deployment of a graph as the record that the controller gets: its options resolved, its version."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

import msgspec

from salver.errors import ConfigurationError, placed
from salver.records import AutoscalingSpec, CodeContext, DeploymentId, DeploymentSpec, JsonDict, Resources
from salver.serve.batching.capacity import options_with_room_for_batches
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.autoscaling_spec import autoscaling_spec, under_application_policy
from salver.serve.building.fingerprint import code_fingerprint, stable_definition
from salver.serve.building.logging_spec import logging_spec
from salver.serve.building.resources import resources_of
from salver.serve.building.sources import with_sources
from salver.serve.deployment import Deployment
from salver.serve.option_effects import HEAVY_OPTIONS
from salver.serve.options import DeploymentOptions

FAILURES_PER_REPLICA = 3


def deployment_spec(
    name: DeploymentId,
    deployment: Deployment[Any],
    definition: bytes,
    code: CodeContext,
    fingerprint: str,
    settings: ApplicationSettings,
) -> DeploymentSpec:
    """The record of ``deployment``.

    Args:
        definition: its class or function and arguments, pickled.
        code: where the application's modules are.
        fingerprint: of those modules.

    Raises:
        ConfigurationError: options that contradict each other, the class or the application (a ``ValueError``).
    """
    with placed("user_config"):
        _check_user_config(name, deployment)
    options = options_with_room_for_batches(deployment, name)
    base = settings.base or code
    own_code = _own_code(options, code, settings)
    if own_code is not None:
        fingerprint = code_fingerprint(own_code, base)
    resources = resources_of(options)
    return DeploymentSpec(
        id=name,
        version=_version(definition, options, resources, fingerprint),
        definition=definition,
        num_replicas=options.target_num_replicas,
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        startup_timeout_s=options.startup_timeout_s,
        graceful_shutdown_timeout_s=options.graceful_shutdown_timeout_s,
        max_constructor_failures=_constructor_failures(options),
        options=_shown(options, name),
        user_config=options.user_config,
        backpressure_status=options.backpressure_config.status_code,
        retry_after_s=options.backpressure_config.retry_after_s,
        idempotent=options.idempotent,
        resources=resources,
        max_replicas_per_node=options.max_replicas_per_node,
        autoscaling=_autoscaling(name, options, own_code or code, settings),
        rolling_update_fraction=options.rolling_update_percentage,
        max_surge_percent=options.max_surge_percent,
        health_check_period_s=options.health_check_period_s,
        health_check_timeout_s=options.health_check_timeout_s,
        hang_timeout_s=options.hang_timeout_s,
        cancel_grace_s=options.cancel_grace_s,
        max_rss_bytes=options.max_rss,
        max_requests=options.max_requests,
        logging=logging_spec(options.logging_config or settings.logging_config),
        code=None if own_code is None else with_sources(own_code, base),
    )


def _shown(options: DeploymentOptions, name: DeploymentId) -> JsonDict:
    """Every option, for status. Of ``ray_actor_options`` what is stated: what is not is not reserved."""
    stated = options.ray_actor_options.model_dump(mode="json", exclude_unset=True)
    return {**options.model_dump(mode="json"), "name": name.name, "ray_actor_options": stated}


def _own_code(options: DeploymentOptions, code: CodeContext, settings: ApplicationSettings) -> CodeContext | None:
    """Where its modules are when it has a ``runtime_env``; None: where the application's are."""
    stated = options.ray_actor_options.runtime_env
    if not stated or settings.in_this_process:
        return None
    from salver.serve.runtime_env import merge_runtime_env, resolve  # few deployments have one

    base = settings.base or code
    merged = merge_runtime_env(settings.runtime_env, stated)
    with placed("ray_actor_options"):
        return msgspec.structs.replace(resolve(merged, base, settings.progress), setup=code.setup)


def _autoscaling(
    name: DeploymentId, options: DeploymentOptions, code: CodeContext, settings: ApplicationSettings
) -> AutoscalingSpec | None:
    scaling = options.scaling
    if scaling is None:
        return None
    if settings.external_scaler_enabled:
        raise ConfigurationError(
            f"deployment {name}: autoscaling_config cannot be set together with external_scaler_enabled: two would "
            "decide on the number of replicas"
        )
    with placed("autoscaling_config"):
        spec = autoscaling_spec(scaling, code)
    return spec if settings.autoscaling_policy is None else under_application_policy(spec)


def _constructor_failures(options: DeploymentOptions) -> int:
    scaling = options.scaling
    replicas = max(options.target_num_replicas, scaling.min_replicas if scaling is not None else 1, 1)
    return min(replicas * FAILURES_PER_REPLICA, options.max_constructor_retry_count)


def _version(definition: bytes, options: DeploymentOptions, resources: Resources, fingerprint: str) -> str:
    """A hash of all that a running replica was made of.

    Of ``ray_actor_options`` it is what follows from them: the resources, and where code is.
    """
    made_of = options.model_dump(mode="json", include=set(HEAVY_OPTIONS - {"ray_actor_options"}))
    digest = hashlib.sha256(stable_definition(definition))
    digest.update(fingerprint.encode())
    digest.update(json.dumps(made_of, sort_keys=True).encode())
    digest.update(msgspec.json.encode(resources, order="deterministic"))
    return digest.hexdigest()[:16]


def _check_user_config(name: DeploymentId, deployment: Deployment[Any]) -> None:
    if deployment.user_config is None:
        return
    if not inspect.isclass(deployment.func_or_class):
        raise ConfigurationError("deployment_def must be a class to use user_config or rank")
    if not hasattr(deployment.func_or_class, "reconfigure"):
        raise ConfigurationError(f"user_config or rank specified but deployment {name} missing reconfigure method")
