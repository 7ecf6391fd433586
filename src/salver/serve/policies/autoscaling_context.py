"""What an autoscaling policy is told of one deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from salver.records import DeploymentId
from salver.serve.context import ReplicaID

if TYPE_CHECKING:
    from salver.serve.config import AutoscalingConfig


@dataclass(frozen=True)
class TimeStampedValue:
    """One number that a replica has said; ``timestamp`` in seconds since 1970."""

    timestamp: float
    value: float


@dataclass(kw_only=True)
class AutoscalingContext:
    """The state of one deployment when its policy is asked. Times are seconds since 1970.

    Attributes:
        deployment_id, deployment_name, app_name: which deployment.
        current_num_replicas: replicas that serve.
        target_num_replicas: how many there should be, as last decided.
        running_replicas: those that serve.
        total_num_requests: requests that wait or run, summed up over the look-back period as the configuration's
            ``aggregation_function`` says.
        total_queued_requests, total_running_requests: the last counts, at most 250 ms old.
        aggregated_metrics: the numbers that the replicas' ``record_autoscaling_stats`` returned, by name and replica,
            summed up in the same way.
        raw_metrics: the same numbers one by one, oldest first.
        capacity_adjusted_min_replicas, capacity_adjusted_max_replicas: the bounds, after ``target_capacity``.
        policy_state: what the policy returned beside its last answer; empty at first.
        last_scale_up_time, last_scale_down_time: of the last decisions; None for none.
        current_time: now.
        config: the deployment's ``AutoscalingConfig``.
    """

    deployment_id: DeploymentId
    deployment_name: str
    app_name: str | None
    current_num_replicas: int
    target_num_replicas: int
    running_replicas: Sequence[ReplicaID] = ()
    total_num_requests: float = 0.0
    total_queued_requests: float | None = None
    total_running_requests: float | None = None
    aggregated_metrics: Mapping[str, Mapping[ReplicaID, float]] | None = None
    raw_metrics: Mapping[str, Mapping[ReplicaID, Sequence[TimeStampedValue]]] | None = None
    capacity_adjusted_min_replicas: int = 0
    capacity_adjusted_max_replicas: int = 0
    policy_state: dict[str, Any] = field(default_factory=dict[str, Any])
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    current_time: float | None = None
    config: AutoscalingConfig
