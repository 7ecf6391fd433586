"""The option models that users pass around: of the HTTP and gRPC ingress, autoscaling, logging, routing.

Names and defaults are ``ray.serve.config``'s. Every model is immutable and strict: unknown names, strings for
numbers and values out of range raise ``OptionsError``, a ``ValueError``, at construction. The options of one
deployment are in ``options``.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from salver.data.http.limits import HTTPLimits
from salver.data.http.options import ROOT_PATH, ProxyOptions, TLSFiles, clean_root_path, is_loopback
from salver.serve.policies.autoscaling_context import AutoscalingContext as AutoscalingContext
from salver.serve.validation import (
    Allowed,
    Count,
    CountFromZero,
    Flag,
    ImportTarget,
    JsonObject,
    NotNegative,
    Number,
    OptionalPositive,
    OptionalText,
    Options,
    Port,
    Positive,
    Text,
)


class ProxyLocation(StrEnum):
    """On which nodes HTTP and gRPC proxies run. One machine is one node."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class AggregationFunction(StrEnum):
    """How autoscaling sums up a metric over its look-back period."""

    MEAN = "mean"
    MAX = "max"
    MIN = "min"


class AutoscalingPolicy(Options):
    """Who decides on the number of replicas.

    Attributes:
        policy_function: the policy, as an import path, a function or a class with ``__call__``.
        policy_kwargs: keyword arguments for it, JSON-serializable.
    """

    policy_function: ImportTarget = "salver.serve.autoscaling_policy:default_autoscaling_policy"
    policy_kwargs: JsonObject = Field(default_factory=dict[str, Any])


class AutoscalingConfig(Options):
    """Between which bounds and how eagerly the number of replicas follows the load.

    Attributes:
        min_replicas: never fewer; 0 lets an idle deployment stop altogether.
        initial_replicas: how many at first; None is ``min_replicas``.
        max_replicas: never more.
        target_ongoing_requests: requests per replica, queued and running, to aim at.
        metrics_interval_s: deprecated, without effect.
        look_back_period_s: over how many seconds the load is averaged.
        smoothing_factor, upscale_smoothing_factor, downscale_smoothing_factor: deprecated, use
            the next two.
        upscaling_factor, downscaling_factor: multiply a step up or down; None is 1.
        downscale_delay_s, upscale_delay_s: for how many seconds a step must be wanted before it is made.
        downscale_to_zero_delay_s: the same for the step from one replica to none; None is
            ``downscale_delay_s``.
        aggregation_function: how the load is summed up over the look-back period.
        policy: who decides.
    """

    min_replicas: CountFromZero = 1
    initial_replicas: Annotated[CountFromZero | None, Allowed("an integer of at least 0, or None")] = None
    max_replicas: Count = 1
    target_ongoing_requests: Positive = 2
    metrics_interval_s: Positive = 10.0
    look_back_period_s: Positive = 30.0
    smoothing_factor: Positive = 1.0
    upscale_smoothing_factor: OptionalPositive = None
    downscale_smoothing_factor: OptionalPositive = None
    upscaling_factor: OptionalPositive = None
    downscaling_factor: OptionalPositive = None
    downscale_delay_s: NotNegative = 600.0
    downscale_to_zero_delay_s: Annotated[NotNegative | None, Allowed("a number of at least 0, or None")] = None
    upscale_delay_s: NotNegative = 30.0
    aggregation_function: Annotated[AggregationFunction, Allowed('"mean", "max" or "min"')] = AggregationFunction.MEAN
    policy: AutoscalingPolicy = AutoscalingPolicy()

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas}: must be at least min_replicas={self.min_replicas}")
        initial = self.initial_replicas
        if initial is not None and not self.min_replicas <= initial <= self.max_replicas:
            raise ValueError(
                f"initial_replicas={initial}: must be between min_replicas={self.min_replicas} "
                f"and max_replicas={self.max_replicas}"
            )
        return self

    def get_upscaling_factor(self) -> float:
        """``upscaling_factor``, or the deprecated options that it replaces."""
        return self.upscaling_factor or self.upscale_smoothing_factor or self.smoothing_factor

    def get_downscaling_factor(self) -> float:
        """``downscaling_factor``, or the deprecated options that it replaces."""
        return self.downscaling_factor or self.downscale_smoothing_factor or self.smoothing_factor

    def get_target_ongoing_requests(self) -> float:
        """``target_ongoing_requests``."""
        return self.target_ongoing_requests

    @classmethod
    def default(cls) -> Self:
        """What ``num_replicas="auto"`` means: 1 to 100 replicas, 2 ongoing requests each."""
        return cls(min_replicas=1, max_replicas=100, target_ongoing_requests=2)


class BackpressureConfig(Options):
    """What an HTTP client hears when the queue is full.

    Attributes:
        status_code: 503 or 429.
        retry_after_s: seconds for the ``Retry-After`` header; None sends no header.
    """

    status_code: Annotated[Literal[503, 429], Allowed("503 or 429")] = 503
    retry_after_s: Annotated[NotNegative | None, Allowed("a number of at least 0, or None")] = None


class HTTPOptions(Options):
    """Where and how the HTTP ingress listens.

    Attributes:
        host: the address to listen on; the default can be reached from this machine only.
        port: the TCP port; 0 is any free one.
        middlewares: not supported, must stay empty.
        location: deprecated, use ``proxy_location`` of ``serve.start``.
        num_cpus: not supported, must stay 0.
        root_url: the URL under which clients reach this ingress, shown by ``status``; empty is ``http://host:port``.
        root_path: the path prefix that a proxy in front has stripped (ASGI ``root_path``).
        request_timeout_s: after how many seconds a request is given up; None is never.
        keep_alive_timeout_s: for how many seconds an idle connection is kept.
        ssl_keyfile, ssl_certfile: key and certificate files (PEM); both or neither. With them, HTTPS only.
        ssl_keyfile_password: password of the key file.
        ssl_ca_certs: authorities by which clients are verified, who must show a certificate; needs the two above.
        timeout_status_code: what a client hears when its request is given up; Salver's own.
        max_body_bytes: bytes that a request body may have; Salver's own.
        debug: clients see the tracebacks of user code, needs a loopback host; Salver's own.
    """

    host: Annotated[str, Len(1), Allowed("a host name or an address")] = "127.0.0.1"
    port: Port = 8000
    middlewares: list[Any] = Field(default_factory=list[Any])
    location: Annotated[ProxyLocation | None, Allowed('"Disabled", "HeadOnly", "EveryNode" or None')] = None
    num_cpus: NotNegative = 0
    root_url: Text = ""
    root_path: Annotated[Text, AfterValidator(clean_root_path), Allowed(ROOT_PATH)] = ""
    request_timeout_s: OptionalPositive = None
    keep_alive_timeout_s: Positive = 90
    ssl_keyfile: OptionalText = None
    ssl_certfile: OptionalText = None
    ssl_keyfile_password: OptionalText = Field(default=None, repr=False)
    ssl_ca_certs: OptionalText = None
    timeout_status_code: Annotated[Literal[504, 408], Allowed("504 or 408")] = 504
    max_body_bytes: Count = HTTPLimits().body
    debug: Flag = False

    @model_validator(mode="after")
    def _check_unsupported(self) -> Self:
        if self.middlewares:
            raise ValueError(
                "middlewares: are not supported here; add them to the ASGI application of your ingress deployment"
            )
        if self.num_cpus:
            raise ValueError(f"num_cpus={self.num_cpus:g}: is not supported, proxies reserve no CPUs")
        return self

    @model_validator(mode="after")
    def _check_ssl(self) -> Self:
        if (self.ssl_keyfile is None) != (self.ssl_certfile is None):
            raise ValueError("ssl_keyfile and ssl_certfile: must be given together")
        if self.ssl_certfile is None and self.ssl_ca_certs is not None:
            raise ValueError("ssl_ca_certs: needs ssl_keyfile and ssl_certfile")
        return self

    @model_validator(mode="after")
    def _check_debug(self) -> Self:
        if self.debug and not is_loopback(self.host):
            raise ValueError(f"debug=True: shows clients tracebacks, so needs a loopback host, not {self.host!r}")
        return self

    def for_proxies(self) -> ProxyOptions:
        """What of it the proxies are told."""
        tls = None
        if self.ssl_certfile is not None and self.ssl_keyfile is not None:
            tls = TLSFiles(self.ssl_certfile, self.ssl_keyfile, self.ssl_keyfile_password, self.ssl_ca_certs)
        return ProxyOptions(
            limits=HTTPLimits(body=self.max_body_bytes, keep_alive_timeout_s=self.keep_alive_timeout_s),
            request_timeout_s=self.request_timeout_s,
            timeout_status=self.timeout_status_code,
            root_path=self.root_path,
            debug=self.debug,
            tls=tls,
        )


class gRPCOptions(Options):  # noqa: N801 - ray.serve's name
    """Where the gRPC ingress listens and what it serves.

    Attributes:
        port: the TCP port.
        grpc_servicer_functions: import paths of the ``add_…Servicer_to_server`` functions; empty is no
            gRPC ingress.
        request_timeout_s: after how many seconds a request is given up; None is never.
        enable_reflection: whether clients may ask for the services.
    """

    port: Port = 9000
    grpc_servicer_functions: Annotated[list[str], Allowed("a list of import paths")] = Field(
        default_factory=list[str]
    )
    request_timeout_s: OptionalPositive = None
    enable_reflection: Flag = True


class RequestRouterConfig(Options):
    """Who chooses a replica for a request.

    Attributes:
        request_router_class: the router, as an import path or a class.
        request_router_kwargs: keyword arguments for it, JSON-serializable.
        request_routing_stats_period_s: how often a replica's ``record_routing_stats`` is called.
        request_routing_stats_timeout_s: how long that may take.
        initial_backoff_s, backoff_multiplier, max_backoff_s: waits between attempts when all are full.
    """

    request_router_class: ImportTarget = "salver.serve.request_router:PowerOfTwoChoicesRequestRouter"
    request_router_kwargs: JsonObject = Field(default_factory=dict[str, Any])
    request_routing_stats_period_s: Positive = 10
    request_routing_stats_timeout_s: Positive = 30
    initial_backoff_s: Positive = 0.025
    backoff_multiplier: Positive = 2
    max_backoff_s: Positive = 0.5


class ControllerOptions(Options):
    """How the controller process runs.

    Attributes:
        runtime_env: ``{"env_vars": {name: value}}``, no other key; None is nothing special.
    """

    runtime_env: Annotated[
        dict[Literal["env_vars"], dict[str, str]] | None,
        Allowed('{"env_vars": {name: value}} with strings, or None'),
    ] = None


class GangSchedulingConfig(Options):
    """Replicas that start, stop and fail together.

    Attributes:
        gang_size: replicas of one gang; ``num_replicas`` must be a multiple of it.
        gang_placement_strategy: "PACK" (near each other) or "SPREAD" (on different nodes).
        runtime_failure_policy: "RESTART_GANG", the only one.
    """

    gang_size: Count
    gang_placement_strategy: Annotated[Literal["PACK", "SPREAD"], Allowed('"PACK" or "SPREAD"')] = "PACK"
    runtime_failure_policy: Annotated[Literal["RESTART_GANG", "RESTART_REPLICA"], Allowed('"RESTART_GANG"')] = (
        "RESTART_GANG"
    )

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        if self.runtime_failure_policy == "RESTART_REPLICA":
            raise NotImplementedError(
                'runtime_failure_policy="RESTART_REPLICA": is not implemented; use "RESTART_GANG"'
            )
        return self


def _reprs(values: tuple[Any, ...]) -> list[str]:
    return [repr(value) for value in values]


def _named_reprs(values: dict[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in values.items()}


class DeploymentActorConfig(Options):
    """A process that all replicas of a deployment share.

    Attributes:
        name: by which replicas find it.
        actor_class: its class, or the class's import path.
        init_args, init_kwargs: arguments of its constructor, any picklable objects; shown as text.
        actor_options: its resources, JSON-serializable.
    """

    name: Annotated[str, Len(1), Allowed("a non-empty string")]
    actor_class: ImportTarget
    init_args: Annotated[tuple[Any, ...], PlainSerializer(_reprs, when_used="json")] = ()
    init_kwargs: Annotated[dict[str, Any], PlainSerializer(_named_reprs, when_used="json")] = Field(
        default_factory=dict[str, Any]
    )
    actor_options: JsonObject = Field(default_factory=dict[str, Any])


def _check_log_level(level: str | int) -> str | int:
    if isinstance(level, str):
        level = level.upper()
        if level not in logging.getLevelNamesMapping():
            raise ValueError(level)
    return level


class LoggingConfig(Options):
    """How replicas, proxies and the controller log.

    Attributes:
        encoding: "TEXT" or "JSON", one object per line.
        log_level: a level of ``logging``, as a name in any case or a number.
        logs_dir: folder of the log files; None is the instance's own.
        enable_access_log: whether each request is logged.
        additional_log_standard_attrs: attributes of ``logging.LogRecord`` to add to each line.
    """

    encoding: Annotated[Literal["TEXT", "JSON"], Allowed('"TEXT" or "JSON"')] = "TEXT"
    log_level: Annotated[
        str | Annotated[int, Ge(0), Le(1000)],
        AfterValidator(_check_log_level),
        Allowed('a level of logging, like "INFO" or 20'),
    ] = "INFO"
    logs_dir: OptionalText = None
    enable_access_log: Flag = True
    additional_log_standard_attrs: Annotated[list[str], Allowed("a list of LogRecord attributes")] = Field(
        default_factory=list[str]
    )


class TracingConfig(Options):
    """How requests are traced.

    Attributes:
        enabled: whether they are.
        exporter_import_path: the function that makes the exporter, as an import path; None is the default one.
        sampling_ratio: fraction of the requests that is traced.
    """

    enabled: Flag = False
    exporter_import_path: OptionalText = None
    sampling_ratio: Annotated[Number, Ge(0), Le(1), Allowed("a number from 0 to 1")] = 0.01
