"""The documents of ``/api/serve/applications/``: the field names and values of Ray Serve, ours after them.

What an instance on one machine does not have (nodes, actors, gRPC) is null or empty, never left out.
"""

from __future__ import annotations

from msgspec import Struct

from salver.records import JsonDict
from salver.views import ScalingDecision

NODE = "localhost"
"""Name of the one machine, where Ray Serve has the id of a node."""


class ActorDetails(Struct, frozen=True, kw_only=True):
    """What there is to know of any process of the instance; ``pid`` and what follows are additions of ours."""

    node_id: str | None = NODE
    node_ip: str | None = "127.0.0.1"
    node_instance_id: str | None = None
    actor_id: str | None = None
    actor_name: str | None = None
    worker_id: str | None = None
    log_file_path: str | None = None
    pid: int | None = None


class ProxyDetails(ActorDetails, frozen=True, kw_only=True):
    """The HTTP ingress of one machine; ``pids`` are its processes."""

    status: str
    pids: tuple[int, ...] = ()


class ReplicaDetails(ActorDetails, frozen=True, kw_only=True):
    """One replica. Of ours: why it is in that state, since when it was wanted, and what it uses."""

    replica_id: str
    state: str
    start_time_s: float
    reason: str = ""
    age_s: float = 0.0
    version: str = ""
    rank: int = -1
    gpus: tuple[int, ...] = ()
    ongoing: int | None = None
    rss_bytes: int | None = None


class DeadReplicaDetails(ReplicaDetails, frozen=True, kw_only=True):
    """A replica that has ended; ``reason`` says why, ``age_s`` how old it became. The rest is ours, too.

    Attributes:
        ended_at_s: seconds since 1970.
        cause: ``reason`` in one word, a value of ``control.leaving.Cause``.
        exit: how its process ended, for people; empty when there was none.
        exit_code: as ``subprocess`` has it: a signal as a negative number; None when it is not known.
    """

    ended_at_s: float
    cause: str
    exit: str = ""
    exit_code: int | None = None


class AutoscalingDecision(Struct, frozen=True):
    """One change of a number of replicas."""

    timestamp_s: float
    reason: str
    prev_num_replicas: int
    curr_num_replicas: int
    policy: str | None = None

    @classmethod
    def of(cls, decision: ScalingDecision) -> AutoscalingDecision:
        return cls(decision.at_s, decision.reason, decision.before, decision.after)


class AutoscalingDetails(Struct, frozen=True):
    """How autoscaling sees a deployment."""

    scaling_status: str
    decisions: tuple[AutoscalingDecision, ...]
    metrics: dict[str, float]
    metrics_health: str
    errors: tuple[str, ...]


class DeploymentDetails(Struct, frozen=True):
    """One deployment; ``version`` is an addition of ours. ``recent_dead_replicas`` are in the order of their ends."""

    name: str
    status: str
    status_trigger: str
    message: str
    deployment_config: JsonDict
    target_num_replicas: int
    required_resources: dict[str, float]
    replicas: tuple[ReplicaDetails, ...]
    recent_dead_replicas: tuple[DeadReplicaDetails, ...] = ()
    autoscaling_detail: AutoscalingDetails | None = None
    version: str = ""


class DeploymentNode(Struct, frozen=True):
    """One deployment in the graph of its application; the others that it was bound with, by name and ``app_name``."""

    name: str
    app_name: str
    outbound_deployments: tuple[dict[str, str], ...]
    is_ingress: bool


class DeploymentTopology(Struct, frozen=True):
    """The graph of an application's deployments."""

    app_name: str
    nodes: dict[str, DeploymentNode]
    ingress_deployment: str | None


class ApplicationDetails(Struct, frozen=True):
    """One application; ``can_roll_back`` is an addition of ours."""

    name: str
    route_prefix: str | None
    docs_path: str | None
    status: str
    message: str
    last_deployed_time_s: float
    deployed_app_config: JsonDict | None
    source: str
    deployments: dict[str, DeploymentDetails]
    external_scaler_enabled: bool
    deployment_topology: DeploymentTopology | None
    can_roll_back: bool = False


class Target(Struct, frozen=True):
    """Where a load balancer finds the ingress."""

    ip: str
    port: int
    instance_id: str
    name: str


class TargetGroup(Struct, frozen=True):
    """Where the requests of one application go."""

    targets: tuple[Target, ...]
    route_prefix: str
    protocol: str
    app_name: str
    ingress_request_router_targets: tuple[Target, ...] = ()
    ingress_deployment_name: str | None = None


class HTTPDetails(Struct, frozen=True):
    """Where the ingress listens; ``tls`` and ``root_url`` are additions of ours."""

    host: str
    port: int
    tls: bool
    root_url: str


class DurationStats(Struct, frozen=True, kw_only=True):
    """A window of times, the latest that there are; percentiles and ``count`` are additions of ours."""

    mean: float
    std: float
    min: float
    max: float
    p50: float
    p90: float
    p99: float
    count: int


class ControllerHealthMetrics(Struct, frozen=True, kw_only=True):
    """How the controller itself is. A loop is an event that it was told of: it makes no rounds while nothing happens.

    Null is what has not been measured, or what this controller does not do: deployments, applications and proxies are
    decided on together, and replicas do not report, but write into shared memory what is then read. What follows
    ``process_memory_mb`` is ours.

    Attributes:
        last_sleep_duration_s, expected_sleep_duration_s, event_loop_delay_s: of the timer that came last, among those
            that look at replicas and load: how long it slept, was to sleep, and by how much it was late.
        handle_reports_received: messages of callers about what waits in them.
        event_loop_delay_stats_s: the same delay, over the window.
        load_age_s: how old the counts of requests were when they were counted anew; None while nothing autoscales.
        num_subscribers: processes that get the routing table.
        num_commands: starts, drains, kills and the like that are being carried out.
        num_unsaved_records: events and ends of replicas that are only in memory, for a disk that was full.
        cpu_s: processor time that it has used.
    """

    timestamp: float
    controller_start_time: float
    uptime_s: float
    last_control_loop_time: float | None
    num_control_loops: int
    loop_duration_s: DurationStats | None
    loops_per_second: float
    last_sleep_duration_s: float | None
    expected_sleep_duration_s: float | None
    event_loop_delay_s: float | None
    num_asyncio_tasks: int
    handle_ingest_duration_ms: DurationStats | None = None
    replica_ingest_duration_ms: DurationStats | None = None
    metrics_decompress_duration_ms: DurationStats | None = None
    columnar_decode_duration_ms: DurationStats | None = None
    handle_reports_received: int
    replica_reports_received: int | None = None
    ingest_reports_received: int
    ingest_cpu_fraction: float | None = None
    deployment_state_update_duration_s: DurationStats | None = None
    application_state_update_duration_s: DurationStats | None = None
    proxy_state_update_duration_s: DurationStats | None = None
    node_update_duration_s: DurationStats | None = None
    handle_metrics_delay_ms: DurationStats | None = None
    replica_metrics_delay_ms: DurationStats | None = None
    process_memory_mb: float
    event_loop_delay_stats_s: DurationStats | None
    load_age_s: DurationStats | None
    num_subscribers: int
    num_commands: int
    num_unsaved_records: int
    cpu_s: float


class InstanceDetails(Struct, frozen=True, kw_only=True):
    """The whole of an instance; ``instance`` and ``version`` are additions of ours."""

    controller_info: ActorDetails
    proxy_location: str | None
    http_options: HTTPDetails | None
    grpc_options: JsonDict | None = None
    proxies: dict[str, ProxyDetails]
    applications: dict[str, ApplicationDetails]
    target_capacity: float | None
    target_groups: tuple[TargetGroup, ...]
    controller_health_metrics: ControllerHealthMetrics | None = None
    restores_unset_config_options: bool = False
    instance: str
    version: str
