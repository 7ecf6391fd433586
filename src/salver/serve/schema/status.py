"""What ``serve.status()`` answers, with the names and values that Ray Serve's users know."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from salver.controller.api_records import StatusAnswer, replica_log
from salver.serve.schema.enums import ApplicationStatus, AutoscalingStatus, DeploymentStatus, ProxyStatus
from salver.views import ApplicationView, DeploymentView, EndedReplica, ReplicaView, ScalingView


class ReplicaOverview(BaseModel):
    """One replica: an addition of ours.

    Attributes:
        reason: why it is in that state; empty when it runs.
        age_s: seconds since its process was asked for.
        rank: its number among the deployment's replicas; -1 while it has none.
        gpus: indices of those that it has.
        ongoing: requests that it runs; None when that is not known.
        rss_bytes: its memory; None when that is not known.
        log_file_path: of its log, which is there when it has written a line; None when the instance has no log files.
    """

    replica_id: str
    state: str
    pid: int | None
    age_s: float
    reason: str = ""
    rank: int = -1
    gpus: list[int] = []
    ongoing: int | None = None
    rss_bytes: int | None = None
    log_file_path: str | None = None


class EndedReplicaOverview(BaseModel):
    """One replica that has ended of late: an addition of ours.

    Attributes:
        start_time_s, ended_at_s: seconds since 1970.
        cause: why it ended, in one word; docs/operating.md lists them.
        reason: the same for people.
        exit: how its process ended, for people; empty when there was none.
        exit_code: as ``subprocess`` has it: a signal as a negative number; None when it is not known.
        log_file_path: as of those that run.
    """

    replica_id: str
    pid: int | None
    version: str
    start_time_s: float
    ended_at_s: float
    cause: str
    reason: str
    exit: str
    exit_code: int | None
    log_file_path: str | None


class ScalingDecisionOverview(BaseModel):
    """One change of a number of replicas; ``at_s`` in seconds since 1970."""

    at_s: float
    reason: str
    before: int
    after: int


class ScalingOverview(BaseModel):
    """How autoscaling sees one deployment: an addition of ours.

    Attributes:
        queued, running: requests, as last counted.
        desired: what the policy says, before delays.
        decisions: the last ones, oldest first.
        error: why the policy cannot decide; empty when it can.
    """

    status: AutoscalingStatus
    queued: float
    running: float
    desired: int
    decisions: list[ScalingDecisionOverview]
    error: str


class DeploymentStatusOverview(BaseModel):
    """One deployment. What follows ``target_num_replicas`` is ours.

    Attributes:
        recent_dead_replicas: those that have ended of late, oldest first.
    """

    status: DeploymentStatus
    status_trigger: str
    replica_states: dict[str, int]
    message: str
    target_num_replicas: int
    replicas: list[ReplicaOverview]
    options: dict[str, Any]
    scaling: ScalingOverview | None = None
    version: str = ""
    recent_dead_replicas: list[EndedReplicaOverview] = []


class ApplicationStatusOverview(BaseModel):
    """One application. What follows ``last_deployed_time_s`` is ours, but for ``deployments``.

    Attributes:
        config: its part of the config file that it was built from; None when code deployed it.
        can_roll_back: there is a version before this one.
    """

    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    route_prefix: str | None
    docs_path: str | None
    deployments: dict[str, DeploymentStatusOverview]
    config: dict[str, Any] | None = None
    external_scaler_enabled: bool = False
    can_roll_back: bool = False


class InstanceOverview(BaseModel):
    """The instance itself: an addition of ours."""

    name: str
    url: str
    version: str
    started_at: float
    supervisor_pid: int
    controller_pid: int
    proxy_pids: list[int]


class ServeStatus(BaseModel):
    """The whole state of an instance; ``proxies`` is keyed by machine."""

    proxies: dict[str, ProxyStatus]
    applications: dict[str, ApplicationStatusOverview]
    target_capacity: float | None = None
    instance: InstanceOverview


def serve_status(answer: StatusAnswer) -> ServeStatus:
    """The public form of the control API's answer."""
    info = answer.instance
    return ServeStatus(
        proxies={"localhost": ProxyStatus.HEALTHY if answer.proxy_pids else ProxyStatus.STARTING},
        applications={view.name: _application(view, answer.logs) for view in answer.applications},
        target_capacity=answer.target_capacity,
        instance=InstanceOverview(
            name=info.name,
            url=info.root_url or info.url,
            version=info.version,
            started_at=info.started_at,
            supervisor_pid=info.pid,
            controller_pid=answer.controller_pid,
            proxy_pids=list(answer.proxy_pids),
        ),
    )


def _application(view: ApplicationView, logs: str) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(view.status),
        message=view.message,
        last_deployed_time_s=view.last_deployed_time_s,
        route_prefix=view.route_prefix,
        docs_path=view.docs_path,
        deployments={deployment.name: _deployment(deployment, logs) for deployment in view.deployments},
        config=view.config,
        external_scaler_enabled=view.external_scaler,
        can_roll_back=view.can_roll_back,
    )


def _deployment(view: DeploymentView, logs: str) -> DeploymentStatusOverview:
    return DeploymentStatusOverview(
        status=DeploymentStatus(view.status),
        status_trigger=view.status_trigger,
        replica_states=view.replica_states,
        message=view.message,
        target_num_replicas=view.target_num_replicas,
        replicas=[_replica(each, logs) for each in view.replicas],
        options=view.options,
        scaling=None if view.scaling is None else _scaling(view.scaling),
        version=view.version,
        recent_dead_replicas=[_ended(each, logs) for each in view.ended],
    )


def _replica(view: ReplicaView, logs: str) -> ReplicaOverview:
    return ReplicaOverview(
        replica_id=view.replica_id,
        state=view.state,
        pid=view.pid,
        age_s=view.age_s,
        reason=view.reason,
        rank=view.rank,
        gpus=list(view.gpus),
        ongoing=view.ongoing,
        rss_bytes=view.rss_bytes,
        log_file_path=replica_log(view, logs),
    )


def _ended(ended: EndedReplica, logs: str) -> EndedReplicaOverview:
    return EndedReplicaOverview(
        replica_id=ended.replica_id,
        pid=ended.pid,
        version=ended.version,
        start_time_s=ended.start_time_s,
        ended_at_s=ended.ended_at_s,
        cause=ended.cause,
        reason=ended.reason,
        exit=ended.exit,
        exit_code=ended.exit_code,
        log_file_path=replica_log(ended, logs),
    )


def _scaling(view: ScalingView) -> ScalingOverview:
    return ScalingOverview(
        status=AutoscalingStatus(view.status),
        queued=view.queued,
        running=view.running,
        desired=view.desired,
        decisions=[
            ScalingDecisionOverview(at_s=each.at_s, reason=each.reason, before=each.before, after=each.after)
            for each in view.decisions
        ],
        error=view.error,
    )
