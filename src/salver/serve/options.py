"""The options of one deployment: what ``@serve.deployment`` and ``.options()`` accept, each defined once.

Every option of ``ray.serve`` is accepted and checked. Those that this version does not act on yet are not in
``OPTIONS_WITH_EFFECT``; setting one to something else than its default warns.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, cast

from annotated_types import Ge, Gt, Le, Len
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

import salver
from salver.data.context import replica_identity
from salver.serve.config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentActorConfig,
    GangSchedulingConfig,
    LoggingConfig,
    RequestRouterConfig,
)
from salver.serve.validation import (
    Allowed,
    Count,
    Flag,
    Json,
    JsonObject,
    NotNegative,
    Number,
    Options,
    OptionsError,
    Positive,
    did_you_mean,
)

OPTIONS_WITH_EFFECT = frozenset(
    {
        "name",
        "num_replicas",
        "ray_actor_options",
        "max_ongoing_requests",
        "max_queued_requests",
        "graceful_shutdown_timeout_s",
        "max_constructor_retry_count",
        "startup_timeout_s",
        "idempotent",
        "user_config",
        "backpressure_config",
    }
)
"""Options that this version acts on."""

OPTIONS_OF_THE_CONTROL_PLANE = frozenset(
    {
        "num_replicas",
        "max_queued_requests",
        "backpressure_config",
        "autoscaling_config",
        "graceful_shutdown_wait_loop_s",
        "graceful_shutdown_timeout_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "request_router_config",
        "max_constructor_retry_count",
        "rolling_update_percentage",
        "max_surge_percent",
        "startup_timeout_s",
        "idempotent",
    }
)
"""Options that running replicas do not know: a change of them replaces no replica."""

_NONE_IS_UNSET = (
    "name",
    "num_replicas",
    "ray_actor_options",
    "backpressure_config",
    "request_router_config",
)
_FORMER_OPTIONS = {
    "route_prefix": "Pass it to serve.run().",
    "max_concurrent_queries": "Its name is 'max_ongoing_requests'.",
}


def _check_resources(resources: dict[str, float]) -> dict[str, float]:
    for name, instead in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        if name in resources:
            raise PydanticCustomError(
                "predicate", "must not contain '{name}': use '{instead}'", {"name": name, "instead": instead}
            )
    return resources


class RayActorOptions(Options):
    """What one replica needs of its node.

    Attributes:
        num_cpus: CPUs, fractions allowed.
        num_gpus: GPUs, fractions allowed; None is 0.
        memory: bytes of memory; None is not accounted.
        resources: amounts of resources that the user has named.
        accelerator_type: the kind of GPU; None is any.
        runtime_env: the environment of the process, JSON-serializable.
        label_selector: labels that the node must have.
        fallback_strategy: selectors to try in turn when no node has them.
    """

    num_cpus: NotNegative = 1
    num_gpus: Annotated[NotNegative | None, Allowed("a number of at least 0, or None")] = None
    memory: Annotated[NotNegative | None, Allowed("a number of bytes of at least 0, or None")] = None
    resources: Annotated[
        dict[str, NotNegative],
        Allowed("a dict of names to numbers of at least 0"),
        AfterValidator(_check_resources),
    ] = Field(default_factory=dict[str, float])
    accelerator_type: Annotated[str | None, Allowed("a string or None")] = None
    runtime_env: Annotated[JsonObject | None, Allowed("a JSON-serializable dict with string keys, or None")] = None
    label_selector: Annotated[dict[str, str] | None, Allowed("a dict of strings to strings, or None")] = None
    fallback_strategy: Annotated[list[dict[str, Any]] | None, Allowed("a list of dicts, or None")] = None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None or name not in _NONE_IS_UNSET}


def _check_name(name: str) -> str:
    if "#" in name:
        raise PydanticCustomError("not_allowed", "must not contain '#'")
    return name


def _check_actor_names(actors: list[DeploymentActorConfig] | None) -> list[DeploymentActorConfig] | None:
    names = [actor.name for actor in actors or ()]
    if len(set(names)) != len(names):
        raise PydanticCustomError("predicate", "must have different names: {names}", {"names": ", ".join(names)})
    return actors


_Bundle = Annotated[dict[str, NotNegative], Len(1)]


class DeploymentOptions(Options):
    """Every option of a deployment; ``model_fields_set`` says which ones the user has set.

    Attributes:
        name: name of the deployment within its application; None is the name of the class or function.
        num_replicas: how many replicas, or "auto" for autoscaling with ``AutoscalingConfig.default()``.
        ray_actor_options: what one replica needs of its node, see ``RayActorOptions``.
        placement_group_bundles: resources of a replica (the first) and of processes that it starts.
        placement_group_strategy: how near to each other the bundles are.
        placement_group_bundle_label_selector: labels that each bundle's node must have.
        max_replicas_per_node: how many replicas one node may have; None is any number.
        user_config: handed to the class's ``reconfigure``, JSON-serializable.
        max_ongoing_requests: requests that one replica works on at the same time; unset, enough for its batches.
        max_queued_requests: requests that wait in one caller (a proxy or a handle); -1 is unlimited.
        backpressure_config: what an HTTP client hears when the queue is full.
        autoscaling_config: lets the number of replicas follow the load; excludes a fixed ``num_replicas``.
        graceful_shutdown_wait_loop_s: never has an effect: a draining replica exits as soon as it is idle.
        graceful_shutdown_timeout_s: seconds for a draining replica to finish its requests, then it is killed.
        health_check_period_s: seconds between two health checks of a replica.
        health_check_timeout_s: seconds for one health check.
        logging_config: how replicas log; None is as the instance does.
        request_router_config: who chooses a replica for a request.
        max_constructor_retry_count: failed starts after which the deployment fails; at most 3 per replica.
        gang_scheduling_config: groups of replicas that start and stop together.
        deployment_actors: processes that all replicas share.
        rolling_update_percentage: fraction of the replicas that an update replaces at a time.
        max_surge_percent: replicas in excess of ``num_replicas`` during an update, in percent of it.
        startup_timeout_s: seconds for one replica to import and construct; Salver's own.
        idempotent: whether a request may be sent again after its replica died; Salver's own.
    """

    name: Annotated[
        Annotated[str, Len(1)] | None, Allowed("a non-empty string without '#'"), AfterValidator(_check_name)
    ] = None
    num_replicas: Annotated[Count | Literal["auto"], Allowed('an integer of at least 1, or "auto"')] = 1
    ray_actor_options: RayActorOptions = RayActorOptions()
    placement_group_bundles: Annotated[
        Annotated[list[_Bundle], Len(1)] | None,
        Allowed("a non-empty list of dicts of resource names to numbers, or None"),
    ] = None
    placement_group_strategy: Annotated[
        Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"],
        Allowed('"PACK", "SPREAD", "STRICT_PACK" or "STRICT_SPREAD"'),
    ] = "PACK"
    placement_group_bundle_label_selector: Annotated[
        list[dict[str, str]] | None, Allowed("a list of dicts of strings to strings, or None")
    ] = None
    max_replicas_per_node: Annotated[
        Annotated[Count, Le(100)] | None, Allowed("an integer from 1 to 100, or None")
    ] = None
    user_config: Json = None
    max_ongoing_requests: Count = 5
    max_queued_requests: Annotated[Count | Literal[-1], Allowed("an integer of at least 1, or -1 (no limit)")] = -1
    backpressure_config: BackpressureConfig = BackpressureConfig()
    autoscaling_config: AutoscalingConfig | None = None
    graceful_shutdown_wait_loop_s: NotNegative = 2
    graceful_shutdown_timeout_s: NotNegative = 20
    health_check_period_s: Positive = 10
    health_check_timeout_s: Positive = 30
    logging_config: LoggingConfig | None = None
    request_router_config: RequestRouterConfig = RequestRouterConfig()
    max_constructor_retry_count: Count = 20
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: Annotated[list[DeploymentActorConfig] | None, AfterValidator(_check_actor_names)] = None
    rolling_update_percentage: Annotated[Number, Gt(0), Le(1), Allowed("a number above 0, up to 1")] = 0.2
    max_surge_percent: Annotated[Number, Ge(0), Le(100), Allowed("a number from 0 to 100")] = 0
    startup_timeout_s: Positive = 600
    idempotent: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, values: Any) -> Any:
        return _given(cast("dict[str, Any]", values)) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_scaling(self) -> Self:
        fixed = self.num_replicas != "auto" and "num_replicas" in self.model_fields_set
        if fixed and self.autoscaling_config is not None:
            raise ValueError(
                f"num_replicas={self.num_replicas}: cannot be set together with autoscaling_config; "
                'leave it out, or set it to "auto"'
            )
        gang = self.gang_scheduling_config
        if gang is not None and isinstance(self.num_replicas, int) and self.num_replicas % gang.gang_size:
            raise ValueError(
                f"num_replicas={self.num_replicas}: must be a multiple of "
                f"gang_scheduling_config.gang_size={gang.gang_size}"
            )
        return self

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        if self.placement_group_bundle_label_selector is not None and self.placement_group_bundles is None:
            raise ValueError("placement_group_bundle_label_selector: needs placement_group_bundles")
        if self.max_replicas_per_node is not None:
            for other in ("placement_group_bundles", "gang_scheduling_config"):
                if getattr(self, other) is not None:
                    raise ValueError(
                        f"max_replicas_per_node={self.max_replicas_per_node}: cannot be set together with {other}"
                    )
        return self

    @property
    def target_num_replicas(self) -> int:
        """How many replicas to run. Without autoscaling, which this version does not have, "auto" is 1."""
        return self.num_replicas if isinstance(self.num_replicas, int) else 1

    def changed(self, changes: DeploymentKwargs) -> DeploymentOptions:
        """A copy with ``changes``. A fixed number of replicas and autoscaling replace each other.

        Raises:
            OptionsError: a value is wrong.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        if changes.get("autoscaling_config") is not None and kept.get("num_replicas") != "auto":
            kept.pop("num_replicas", None)
        if isinstance(changes.get("num_replicas"), int):
            kept.pop("autoscaling_config", None)
        return DeploymentOptions(**{**kept, **_given(changes)})


class DeploymentKwargs(TypedDict, total=False):
    """The same options as keyword arguments, for type checkers and editors; a test compares the two lists."""

    name: str | None
    num_replicas: int | Literal["auto"] | None
    ray_actor_options: dict[str, Any] | None
    placement_group_bundles: list[dict[str, float]] | None
    placement_group_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
    placement_group_bundle_label_selector: list[dict[str, str]] | None
    max_replicas_per_node: int | None
    user_config: Any
    max_ongoing_requests: int
    max_queued_requests: int
    backpressure_config: BackpressureConfig | dict[str, Any] | None
    autoscaling_config: AutoscalingConfig | dict[str, Any] | None
    graceful_shutdown_wait_loop_s: float
    graceful_shutdown_timeout_s: float
    health_check_period_s: float
    health_check_timeout_s: float
    logging_config: LoggingConfig | dict[str, Any] | None
    request_router_config: RequestRouterConfig | dict[str, Any] | None
    max_constructor_retry_count: int
    gang_scheduling_config: GangSchedulingConfig | dict[str, Any] | None
    deployment_actors: list[DeploymentActorConfig | dict[str, Any]] | None
    rolling_update_percentage: float
    max_surge_percent: float
    startup_timeout_s: float
    idempotent: bool


def check_option_names(caller: str, options: DeploymentKwargs) -> None:
    """Refuse keyword arguments that are no options, the way Python refuses unknown ones.

    Raises:
        TypeError: names the nearest option.
        OptionsError: ``version`` was given.
    """
    for name in options:
        if name == "version":
            raise OptionsError(
                ["version: cannot be set; it follows from the deployment's code, arguments and options"]
            )
        if name not in DeploymentOptions.model_fields:
            hint = _FORMER_OPTIONS.get(name)
            advice = f" {hint}" if hint else did_you_mean(name, DeploymentOptions.model_fields)
            raise TypeError(f"{caller} got an unexpected option {name!r}.{advice}")


_warned: set[str] = set()


def warn_about_options_without_effect(deployment: str, options: DeploymentOptions) -> None:
    """Tell the user, once per process and option, that this version ignores an option they have set.

    Replicas, which import the same code again, say nothing.
    """
    if replica_identity.get() is not None:
        return
    for name, field in DeploymentOptions.model_fields.items():
        value: object = getattr(options, name)
        if name == "num_replicas" and value == "auto":
            name = 'num_replicas="auto"'
        elif name in OPTIONS_WITH_EFFECT or value == field.default:
            continue
        if name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"option {name!r} of deployment {deployment!r} is accepted but has no effect in this version "
                "of Salver; see docs/options.md",
                UserWarning,
                stacklevel=_caller_level(),
            )


_SALVER_FOLDER = str(Path(salver.__file__).parent)


def _caller_level() -> int:
    """The ``stacklevel`` at which the frame is the user's, seen from this function's caller."""
    level = 1
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SALVER_FOLDER):
        frame = frame.f_back
        level += 1
    return level
