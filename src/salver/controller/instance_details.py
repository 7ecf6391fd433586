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
    """One deployment; ``version`` is an addition of ours."""

    name: str
    status: str
    status_trigger: str
    message: str
    deployment_config: JsonDict
    target_num_replicas: int
    required_resources: dict[str, float]
    replicas: tuple[ReplicaDetails, ...]
    recent_dead_replicas: tuple[ReplicaDetails, ...] = ()
    autoscaling_detail: AutoscalingDetails | None = None
    version: str = ""


class DeploymentNode(Struct, frozen=True):
    """One deployment in the graph of its application."""

    name: str
    app_name: str
    outbound_deployments: tuple[JsonDict, ...]
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
    controller_health_metrics: JsonDict | None = None
    restores_unset_config_options: bool = False
    instance: str
    version: str
