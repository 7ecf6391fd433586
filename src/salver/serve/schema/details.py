"""What ``GET /api/serve/applications/`` answers, for programs that parse it.

Names and fields are Ray Serve's. A field that this version does not know is None or empty; one that a later version
adds is kept, so that a client need not be updated with the server.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from salver.serve.config import ProxyLocation
from salver.serve.schema.enums import (
    APIType,
    ApplicationStatus,
    AutoscalingMetricsHealth,
    AutoscalingStatus,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
)


class Details(BaseModel):
    """Base of the models of this module."""

    model_config = ConfigDict(extra="allow", frozen=True)


class ServeActorDetails(Details):
    """One of the processes. What only a Ray cluster has is None."""

    node_id: str | None = None
    node_ip: str | None = None
    node_instance_id: str | None = None
    actor_id: str | None = None
    actor_name: str | None = None
    worker_id: str | None = None
    log_file_path: str | None = None


class ReplicaDetails(ServeActorDetails):
    """One replica; ``start_time_s`` in seconds since 1970."""

    replica_id: str
    state: ReplicaState
    pid: int | None = None
    start_time_s: float = 0.0


class DeadReplicaDetails(ReplicaDetails):
    """One that has ended; ``exit_code`` is as in ``subprocess``. All of this is ours.

    Attributes:
        reason, cause: why it ended, for people and in one word.
        age_s: how old it became.
        exit: how its process ended, for people; empty when there was none.
    """

    reason: str = ""
    cause: str = ""
    ended_at_s: float = 0.0
    age_s: float = 0.0
    version: str = ""
    exit: str = ""
    exit_code: int | None = None


class ProxyDetails(ServeActorDetails):
    """The HTTP ingress on one machine."""

    status: ProxyStatus


class ScalingDecision(Details):
    """One change of a number of replicas; ``timestamp_s`` in seconds since 1970."""

    timestamp_s: float
    reason: str
    prev_num_replicas: int
    curr_num_replicas: int
    policy: str | None = None


class DeploymentAutoscalingDetail(Details):
    """How autoscaling sees one deployment; the last decisions, oldest first."""

    scaling_status: AutoscalingStatus
    decisions: list[ScalingDecision] = Field(default_factory=list[ScalingDecision])
    metrics: dict[str, Any] = Field(default_factory=dict[str, Any])
    metrics_health: AutoscalingMetricsHealth = AutoscalingMetricsHealth.HEALTHY
    errors: list[str] = Field(default_factory=list[str])


class DeploymentDetails(Details):
    """One deployment; the last that died is the last of ``recent_dead_replicas``."""

    name: str
    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger
    message: str
    deployment_config: dict[str, Any]
    target_num_replicas: int
    required_resources: dict[str, Any] = Field(default_factory=dict[str, Any])
    replicas: list[ReplicaDetails] = Field(default_factory=list[ReplicaDetails])
    recent_dead_replicas: list[DeadReplicaDetails] = Field(default_factory=list[DeadReplicaDetails])
    autoscaling_detail: DeploymentAutoscalingDetail | None = None


class DeploymentNode(Details):
    """One deployment among those that call each other."""

    name: str
    app_name: str
    outbound_deployments: list[dict[str, str]] = Field(default_factory=list[dict[str, str]])
    is_ingress: bool = False


class DeploymentTopology(Details):
    """Which deployments of an application were bound with handles to which."""

    app_name: str
    nodes: dict[str, DeploymentNode] = Field(default_factory=dict[str, DeploymentNode])
    ingress_deployment: str | None = None


class ApplicationDetails(Details):
    """One application; ``deployed_app_config`` is its part of the config file, None when code deployed it."""

    name: str
    route_prefix: str | None = None
    docs_path: str | None = None
    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    deployed_app_config: dict[str, Any] | None = None
    source: APIType = APIType.UNKNOWN
    deployments: dict[str, DeploymentDetails] = Field(default_factory=dict[str, DeploymentDetails])
    external_scaler_enabled: bool = False
    deployment_topology: DeploymentTopology | None = None


class Target(Details):
    """An address at which requests are taken."""

    ip: str
    port: int
    instance_id: str = ""
    name: str = ""


class TargetGroup(Details):
    """Addresses that take the requests of one route."""

    targets: list[Target] = Field(default_factory=list[Target])
    route_prefix: str = "/"
    protocol: str = "HTTP"
    app_name: str = ""
    ingress_request_router_targets: list[Target] = Field(default_factory=list[Target])
    ingress_deployment_name: str | None = None


class DurationStats(Details):
    """A window of times; percentiles and ``count`` are ours."""

    mean: float = 0.0
    std: float = 0.0
    min: float = 0.0
    max: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    count: int = 0


class ControllerHealthMetrics(Details):
    """How the controller itself is; None is what was not measured, or is not done. docs/operating.md explains it."""

    timestamp: float
    controller_start_time: float
    uptime_s: float
    last_control_loop_time: float | None = None
    num_control_loops: int = 0
    loop_duration_s: DurationStats | None = None
    loops_per_second: float = 0.0
    last_sleep_duration_s: float | None = None
    expected_sleep_duration_s: float | None = None
    event_loop_delay_s: float | None = None
    num_asyncio_tasks: int = 0
    handle_ingest_duration_ms: DurationStats | None = None
    replica_ingest_duration_ms: DurationStats | None = None
    metrics_decompress_duration_ms: DurationStats | None = None
    columnar_decode_duration_ms: DurationStats | None = None
    handle_reports_received: int = 0
    replica_reports_received: int | None = None
    ingest_reports_received: int = 0
    ingest_cpu_fraction: float | None = None
    deployment_state_update_duration_s: DurationStats | None = None
    application_state_update_duration_s: DurationStats | None = None
    proxy_state_update_duration_s: DurationStats | None = None
    node_update_duration_s: DurationStats | None = None
    handle_metrics_delay_ms: DurationStats | None = None
    replica_metrics_delay_ms: DurationStats | None = None
    process_memory_mb: float = 0.0
    event_loop_delay_stats_s: DurationStats | None = None
    load_age_s: DurationStats | None = None
    num_subscribers: int = 0
    num_commands: int = 0
    num_unsaved_records: int = 0
    cpu_s: float = 0.0


class ServeInstanceDetails(Details):
    """The whole state of an instance."""

    controller_info: ServeActorDetails = ServeActorDetails()
    proxy_location: ProxyLocation | None = None
    http_options: dict[str, Any] | None = None
    grpc_options: dict[str, Any] | None = None
    proxies: dict[str, ProxyDetails] = Field(default_factory=dict[str, ProxyDetails])
    applications: dict[str, ApplicationDetails] = Field(default_factory=dict[str, ApplicationDetails])
    target_capacity: float | None = None
    target_groups: list[TargetGroup] = Field(default_factory=list[TargetGroup])
    controller_health_metrics: ControllerHealthMetrics | None = None
    restores_unset_config_options: bool = True


class ScaleDeploymentRequest(BaseModel):
    """The body of ``POST …/scale``."""

    target_num_replicas: int = Field(ge=0)
