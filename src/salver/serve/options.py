"""The options of one deployment: what ``@serve.deployment`` and ``.options()`` accept, each defined once.

Every option of ``ray.serve`` is accepted and checked; ``option_effects`` says what each one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypedDict, cast

from annotated_types import Ge, Gt, Le, Len
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from salver.serve.byte_size import bytes_of
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


def _check_gpus(num_gpus: float | None) -> float | None:
    if num_gpus is not None and num_gpus > 1 and num_gpus % 1:
        raise PydanticCustomError(
            "not_allowed", "must be whole when it is above 1: a replica has a share of one GPU, or whole ones"
        )
    return num_gpus


def _check_runtime_env(env: dict[str, Any] | None) -> dict[str, Any] | None:
    if not env:
        return env
    from salver.serve.runtime_env import check_runtime_env  # few deployments have one

    return check_runtime_env(env)


class _RightRuntimeEnv:
    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(_check_runtime_env, handler(source))

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        from salver.serve.runtime_env.json_schema import RUNTIME_ENV  # few ask for it

        return dict(RUNTIME_ENV)


RightRuntimeEnv = _RightRuntimeEnv()
"""For fields that are a ``runtime_env``: each mistake in one is a problem of its own, with its place."""


class RayActorOptions(Options):
    """What one replica needs of its node.

    Attributes:
        num_cpus: CPUs, fractions allowed; unset, none is reserved.
        num_gpus: GPUs, fractions allowed; None is 0.
        memory: bytes of memory; None is not accounted.
        resources: amounts of resources that the user has named.
        accelerator_type: the kind of GPU; None is any.
        runtime_env: the environment of the process, JSON-serializable.
        label_selector: labels that the node must have.
        fallback_strategy: selectors to try in turn when no node has them.
    """

    num_cpus: NotNegative = 1
    num_gpus: Annotated[
        NotNegative | None, Allowed("a number of at least 0, or None"), AfterValidator(_check_gpus)
    ] = None
    memory: Annotated[NotNegative | None, Allowed("a number of bytes of at least 0, or None")] = None
    resources: Annotated[
        dict[str, NotNegative],
        Allowed("a dict of names to numbers of at least 0"),
        AfterValidator(_check_resources),
    ] = Field(default_factory=dict[str, float])
    accelerator_type: Annotated[str | None, Allowed("a string or None")] = None
    runtime_env: Annotated[
        JsonObject | None,
        Allowed("a JSON-serializable dict with string keys, or None"),
        RightRuntimeEnv,
    ] = None
    label_selector: Annotated[dict[str, str] | None, Allowed("a dict of strings to strings, or None")] = None
    fallback_strategy: Annotated[list[dict[str, Any]] | None, Allowed("a list of dicts, or None")] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, values: Any) -> Any:
        """Config files of Ray Serve say null for what they leave to the default."""
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        return {name: value for name, value in given.items() if value is not None or name not in _NULL_IN_FILES}


_NULL_IN_FILES = ("num_cpus", "resources")


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
        hang_timeout_s: seconds for which a replica's process may be silent, then it is killed; Salver's own.
        cancel_grace_s: seconds that a handler may ignore its cancellation, then its replica goes; Salver's own.
        max_rss: memory of a replica, in bytes, beyond which it is replaced; Salver's own.
        max_requests: requests after which a replica is replaced; Salver's own.
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
    hang_timeout_s: Positive = 30
    cancel_grace_s: NotNegative = 5
    max_rss: Annotated[
        Count | None,
        BeforeValidator(bytes_of),
        Allowed('a number of bytes of at least 1, a text like "2 GiB", or None'),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}, {"type": "null"}]}),
    ] = None
    max_requests: Annotated[Count | None, Allowed("an integer of at least 1, or None")] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = _given(cast("dict[str, Any]", values))
        config = given.get("autoscaling_config")
        if given.get("num_replicas") == "auto" and isinstance(config, dict):
            # before it is checked: a min_replicas of 4 is in order below the 100 that "auto" means
            given["autoscaling_config"] = {"max_replicas": AutoscalingConfig.default().max_replicas} | config
        return given

    @model_validator(mode="after")
    def _check_scaling(self) -> Self:
        fixed = self.num_replicas != "auto" and "num_replicas" in self.model_fields_set
        if fixed and self.autoscaling_config is not None:
            raise ValueError(
                f"num_replicas={self.num_replicas}: cannot be set together with autoscaling_config; "
                'leave it out, or set it to "auto"'
            )
        _ = self.scaling  # "auto" with bounds that contradict its own
        return self

    @model_validator(mode="after")
    def _check_gang(self) -> Self:
        gang = self.gang_scheduling_config
        if (
            gang is not None
            and self.is_complete()
            and isinstance(self.num_replicas, int)
            and self.num_replicas % gang.gang_size
        ):
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

    def is_complete(self) -> bool:
        """Whether what is not set is the default; in a config file it is what the code says."""
        return True

    @property
    def scaling(self) -> AutoscalingConfig | None:
        """How the number of replicas follows the load; None when it is fixed.

        "auto" is ``AutoscalingConfig.default()`` below what the user has set of ``autoscaling_config``.
        """
        if self.num_replicas != "auto":
            return self.autoscaling_config
        given = self.autoscaling_config or AutoscalingConfig()
        kept = {name: getattr(given, name) for name in given.model_fields_set}
        default = AutoscalingConfig.default()
        return AutoscalingConfig(**{name: getattr(default, name) for name in default.model_fields_set} | kept)

    @property
    def target_num_replicas(self) -> int:
        """How many replicas to run; with autoscaling, to begin with."""
        scaling = self.scaling
        if scaling is not None:
            return scaling.min_replicas if scaling.initial_replicas is None else scaling.initial_replicas
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
    hang_timeout_s: float
    cancel_grace_s: float
    max_rss: int | str | None
    max_requests: int | None


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
