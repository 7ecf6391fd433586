"""What ``serve.status()`` answers, with the names and values that Ray Serve's users know."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from salver.controller.api_records import StatusAnswer
from salver.views import ApplicationView, DeploymentView


class ApplicationStatus(StrEnum):
    """The state of an application."""

    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


class DeploymentStatus(StrEnum):
    """The state of a deployment."""

    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"


class ProxyStatus(StrEnum):
    """The state of the HTTP ingress on one machine."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


class ReplicaOverview(BaseModel):
    """One replica; ``age_s`` in seconds since its process was asked for."""

    replica_id: str
    state: str
    pid: int | None
    age_s: float


class DeploymentStatusOverview(BaseModel):
    """One deployment. ``replicas`` and ``options`` are additions of ours."""

    status: DeploymentStatus
    status_trigger: str
    replica_states: dict[str, int]
    message: str
    target_num_replicas: int
    replicas: list[ReplicaOverview]
    options: dict[str, Any]


class ApplicationStatusOverview(BaseModel):
    """One application. ``route_prefix`` and ``docs_path`` are additions of ours to Ray Serve's overview."""

    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    route_prefix: str | None
    docs_path: str | None
    deployments: dict[str, DeploymentStatusOverview]


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
        applications={view.name: _application(view) for view in answer.applications},
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


def _application(view: ApplicationView) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(view.status),
        message=view.message,
        last_deployed_time_s=view.last_deployed_time_s,
        route_prefix=view.route_prefix,
        docs_path=view.docs_path,
        deployments={deployment.name: _deployment(deployment) for deployment in view.deployments},
    )


def _deployment(view: DeploymentView) -> DeploymentStatusOverview:
    return DeploymentStatusOverview(
        status=DeploymentStatus(view.status),
        status_trigger=view.status_trigger,
        replica_states=view.replica_states,
        message=view.message,
        target_num_replicas=view.target_num_replicas,
        replicas=[
            ReplicaOverview(replica_id=each.replica_id, state=each.state, pid=each.pid, age_s=each.age_s)
            for each in view.replicas
        ],
        options=view.options,
    )
