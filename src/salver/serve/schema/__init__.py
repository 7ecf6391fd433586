"""The shapes of config files, of status and of the REST API's answers, with Ray Serve's names.

Each is imported when it is asked for: a process that only asks for the status needs no model of config files.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salver.serve.config import LoggingConfig, TracingConfig
    from salver.serve.context import ReplicaRank
    from salver.serve.schema.deploy import (
        DeploymentSchema,
        HTTPOptionsSchema,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
        gRPCOptionsSchema,
    )
    from salver.serve.schema.details import (
        ApplicationDetails,
        ControllerHealthMetrics,
        DeadReplicaDetails,
        DeploymentAutoscalingDetail,
        DeploymentDetails,
        DeploymentNode,
        DeploymentTopology,
        DurationStats,
        ProxyDetails,
        ReplicaDetails,
        ScaleDeploymentRequest,
        ScalingDecision,
        ServeActorDetails,
        ServeInstanceDetails,
        Target,
        TargetGroup,
    )
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
    from salver.serve.schema.status import (
        ApplicationStatusOverview,
        DeploymentStatusOverview,
        EndedReplicaOverview,
        InstanceOverview,
        ReplicaOverview,
        ServeStatus,
        serve_status,
    )

_MODULES = {
    "salver.serve.config": ("LoggingConfig", "TracingConfig"),
    "salver.serve.context": ("ReplicaRank",),
    "salver.serve.schema.deploy": (
        "DeploymentSchema",
        "HTTPOptionsSchema",
        "RayActorOptionsSchema",
        "ServeApplicationSchema",
        "ServeDeploySchema",
        "gRPCOptionsSchema",
    ),
    "salver.serve.schema.details": (
        "ApplicationDetails",
        "ControllerHealthMetrics",
        "DeadReplicaDetails",
        "DeploymentAutoscalingDetail",
        "DeploymentDetails",
        "DeploymentNode",
        "DeploymentTopology",
        "DurationStats",
        "ProxyDetails",
        "ReplicaDetails",
        "ScaleDeploymentRequest",
        "ScalingDecision",
        "ServeActorDetails",
        "ServeInstanceDetails",
        "Target",
        "TargetGroup",
    ),
    "salver.serve.schema.enums": (
        "APIType",
        "ApplicationStatus",
        "AutoscalingMetricsHealth",
        "AutoscalingStatus",
        "DeploymentStatus",
        "DeploymentStatusTrigger",
        "ProxyStatus",
        "ReplicaState",
    ),
    "salver.serve.schema.status": (
        "ApplicationStatusOverview",
        "DeploymentStatusOverview",
        "EndedReplicaOverview",
        "InstanceOverview",
        "ReplicaOverview",
        "ServeStatus",
        "serve_status",
    ),
}

__all__ = [
    "APIType",
    "ApplicationDetails",
    "ApplicationStatus",
    "ApplicationStatusOverview",
    "AutoscalingMetricsHealth",
    "AutoscalingStatus",
    "ControllerHealthMetrics",
    "DeadReplicaDetails",
    "DeploymentAutoscalingDetail",
    "DeploymentDetails",
    "DeploymentNode",
    "DeploymentSchema",
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "DeploymentTopology",
    "DurationStats",
    "EndedReplicaOverview",
    "HTTPOptionsSchema",
    "InstanceOverview",
    "LoggingConfig",
    "ProxyDetails",
    "ProxyStatus",
    "RayActorOptionsSchema",
    "ReplicaDetails",
    "ReplicaOverview",
    "ReplicaRank",
    "ReplicaState",
    "ScaleDeploymentRequest",
    "ScalingDecision",
    "ServeActorDetails",
    "ServeApplicationSchema",
    "ServeDeploySchema",
    "ServeInstanceDetails",
    "ServeStatus",
    "Target",
    "TargetGroup",
    "TracingConfig",
    "gRPCOptionsSchema",
    "serve_status",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'salver.serve.schema' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
