"""Records that cross layers: frozen, typed, encodable as msgpack. No behaviour beyond naming.

The data plane and the control plane meet only here and in ``wire.snapshot``.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

JsonDict = dict[str, Any]


class DeploymentId(Struct, frozen=True, array_like=True, order=True):
    """One deployment of one application; ``str()`` gives ``app#name``."""

    app: str
    name: str

    def __str__(self) -> str:
        return f"{self.app}#{self.name}"


class CodeContext(Struct, frozen=True):
    """Where a replica finds the user's code: what the process that built the application had.

    Attributes:
        sys_path: the builder's ``sys.path``, first entries first.
        cwd: its current folder.
        setup: functions (``module:name``) that a replica calls before it imports user code (``compat`` uses it).
        env_vars: environment variables that it sets before that.
        sources: the user's modules as they were when the application was built, packed; empty to import what is on
            disk (``engine.local.source_finder``).
    """

    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    setup: tuple[str, ...] = ()
    env_vars: dict[str, str] = {}
    sources: bytes = b""


class Resources(Struct, frozen=True):
    """What one replica reserves of its machine; nothing of what is 0.

    Attributes:
        num_cpus, num_gpus: fractions allowed; a GPU's fraction is of one GPU, above 1 only whole ones.
        memory: bytes.
        custom: amounts of resources that the user has named.
    """

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: float = 0.0
    custom: dict[str, float] = {}


class Capacity(Struct, frozen=True):
    """What a machine has to be reserved; whole GPUs, by their indices as the driver counts them."""

    num_cpus: float = 0.0
    gpus: tuple[int, ...] = ()
    memory: float = 0.0
    custom: dict[str, float] = {}


GpuShares = tuple[tuple[int, float], ...]
"""Which GPUs a replica has, and how much of each, 0 to 1."""


class PolicySpec(Struct, frozen=True):
    """A user's autoscaling policy: code that only a process of its own may run.

    Attributes:
        definition: the function or class, pickled.
        name: for people.
        kwargs: its keyword arguments.
        code: where its modules are.
    """

    definition: bytes
    name: str
    kwargs: JsonDict = {}
    code: CodeContext = CodeContext()


class AutoscalingSpec(Struct, frozen=True):
    """How the number of replicas follows the load; the fields of ``serve.config.AutoscalingConfig``, resolved.

    Attributes:
        initial_replicas: None is ``min_replicas``.
        downscale_to_zero_delay_s: None is ``downscale_delay_s``.
        aggregation: ``mean``, ``max`` or ``min`` over the look-back period.
        policy: None is the default one, or the application's.
        wants_stats: a policy of the user's decides, so replicas are asked for ``record_autoscaling_stats``.
    """

    min_replicas: int = 1
    initial_replicas: int | None = None
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    aggregation: str = "mean"
    policy: PolicySpec | None = None
    wants_stats: bool = False


class LoggingSpec(Struct, frozen=True):
    """How a process logs; the fields of ``serve.config.LoggingConfig``.

    Attributes:
        encoding: ``TEXT``, ``JSON``, or empty for text on a terminal and JSON elsewhere.
        log_level: a number of ``logging``.
        logs_dir: folder of the files, empty for the instance's own.
        additional_attributes: attributes of ``logging.LogRecord`` to add to each line.
    """

    encoding: str = ""
    log_level: int = 20
    logs_dir: str = ""
    enable_access_log: bool = True
    additional_attributes: tuple[str, ...] = ()


class DeploymentSpec(Struct, frozen=True):
    """What the user wants of one deployment, complete: the controller needs nothing else, and no user code.

    Attributes:
        id: application and deployment name.
        version: content hash of code, arguments and the options whose change needs new replicas.
        definition: pickled (class or function, init args, init kwargs), opaque to the control plane.
        num_replicas: target number of replicas, at least 0; with ``autoscaling`` what to begin with.
        max_ongoing_requests: slots of one replica.
        max_queued_requests: bound of each caller's queue; -1 is unlimited.
        startup_timeout_s: how long one replica may take to construct.
        graceful_shutdown_timeout_s: how long one replica may take to finish its requests.
        max_constructor_failures: failures of this version after which the deployment has failed.
        user_config: for the class's ``reconfigure``, None for no call of it.
        backpressure_status, retry_after_s: what an HTTP client hears when the queue is full.
        idempotent: a request may be sent again after its replica died.
        options: every option as the user sees it, JSON-able, for status.
        resources: what each replica reserves.
        max_replicas_per_node: None for any number.
        autoscaling: None for a fixed number of replicas.
        rolling_update_fraction: how much of ``num_replicas`` an update replaces at a time, above 0, up to 1.
        max_surge_percent: how many more replicas than ``num_replicas`` an update may have, if that is more.
        health_check_period_s, health_check_timeout_s: of the class's ``check_health``.
        hang_timeout_s: how long a replica's process may be silent before it is killed.
        cancel_grace_s: how long a handler may ignore its cancellation before its replica is replaced.
        max_rss_bytes, max_requests: beyond which a replica is replaced; None is never.
        logging: None is as the instance.
        code: where its code is, when that is not where the application's is.
        calls: the deployments whose handles its code was bound with, of this application or of others; for people.
    """

    id: DeploymentId
    version: str
    definition: bytes
    num_replicas: int = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = -1
    startup_timeout_s: float = 600.0
    graceful_shutdown_timeout_s: float = 20.0
    max_constructor_failures: int = 3
    options: JsonDict = {}
    user_config: Any = None
    backpressure_status: int = 503
    retry_after_s: float | None = None
    idempotent: bool = False
    resources: Resources = Resources()
    max_replicas_per_node: int | None = None
    autoscaling: AutoscalingSpec | None = None
    rolling_update_fraction: float = 0.2
    max_surge_percent: float = 0.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    hang_timeout_s: float = 30.0
    cancel_grace_s: float = 5.0
    max_rss_bytes: int | None = None
    max_requests: int | None = None
    logging: LoggingSpec | None = None
    code: CodeContext | None = None
    calls: tuple[DeploymentId, ...] = ()


class ApplicationSpec(Struct, frozen=True):
    """What the user wants of one application.

    Attributes:
        ingress: name of the deployment that gets the HTTP requests.
        route_prefix: its path prefix, None when it is not exposed.
        timeout_status: what an HTTP client hears when its deadline has passed; 0 is as the instance was told.
        config: the part of a config file that it was built from; None when code deployed it.
        external_scaler: its deployments may be scaled by the control API.
        policy: one that decides for all of its deployments together.
    """

    name: str
    route_prefix: str | None
    ingress: str
    deployments: tuple[DeploymentSpec, ...]
    code: CodeContext = CodeContext()
    timeout_status: int = 0
    config: JsonDict | None = None
    external_scaler: bool = False
    policy: PolicySpec | None = None


class Target(Struct, frozen=True):
    """Everything that users want of an instance: what is saved, and all that a new controller starts from.

    Attributes:
        applications: as they are wanted now, in the order in which they came.
        last_good: of each application that an update has not brought up yet, what ran before; of each other that
            was updated, what ran before that. It is what ``rollback`` returns to.
        replicas: numbers of replicas that scaling has decided on, by ``app#deployment``.
        capacity_percent: how much of every number of replicas is wanted, 0 to 100; None is all.
        proven: names of the applications that have run as they are wanted.
        deployed_at_s: when each application was deployed last, seconds since 1970, by name. It tells a deploy from
            the next, also for who waits for one while controllers change.
    """

    applications: tuple[ApplicationSpec, ...] = ()
    last_good: tuple[ApplicationSpec, ...] = ()
    replicas: dict[str, int] = {}
    capacity_percent: float | None = None
    proven: tuple[str, ...] = ()
    deployed_at_s: dict[str, float] = {}
