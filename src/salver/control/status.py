"""What people are told: statuses derived from the state, never stored. Values are the reference's enums."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from salver.control.application import Application
from salver.control.deployment import Deployment, Goal, Membership
from salver.control.replica import Replica, State
from salver.views import ApplicationView, DeploymentView, ReplicaView

_REPLICA_STATES = {
    State.STARTING: "STARTING",
    State.INITIALIZING: "STARTING",
    State.RECOVERING: "RECOVERING",
    State.RUNNING: "RUNNING",
    State.DRAINING: "STOPPING",
    State.KILLING: "STOPPING",
}

_COMPLETED = {
    Goal.UPDATE: "CONFIG_UPDATE_COMPLETED",
    Goal.UPSCALE: "UPSCALE_COMPLETED",
    Goal.DOWNSCALE: "DOWNSCALE_COMPLETED",
}

FAILURES_OF_THE_UNHEALTHY = 2
"""One failure while others serve is replaced before anyone should look."""


class DeploymentStatus(Struct, frozen=True):
    """The reference's status and trigger, and a message for people, empty when all is well."""

    status: str
    trigger: str
    message: str


def deployment_status(deployment: Deployment) -> DeploymentStatus:
    """How the deployment is doing."""
    failure = deployment.last_failure
    message = failure.message if failure else ""
    if deployment.membership is Membership.REMOVED:
        return DeploymentStatus("UPDATING", "DELETING", "")
    if deployment.failed:
        return DeploymentStatus("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED", message)
    if deployment.reached and deployment.settled:
        return DeploymentStatus("HEALTHY", _COMPLETED[deployment.goal], "")
    if _unhealthy(deployment):
        return DeploymentStatus("UNHEALTHY", failure.trigger if failure else "UNSPECIFIED", message)
    if deployment.reached:
        return DeploymentStatus("HEALTHY", _COMPLETED[deployment.goal], message)
    return DeploymentStatus(deployment.goal.value, "CONFIG_UPDATE_STARTED", message)


def _unhealthy(deployment: Deployment) -> bool:
    """Of a deployment that lacks replicas: whether failures are to blame, and more than a passing one."""
    if deployment.reached and not deployment.running:
        return True
    return deployment.version_ran and deployment.backoff.failures >= FAILURES_OF_THE_UNHEALTHY


def unavailable_reason(deployment: Deployment) -> str:
    """Why waiting for it is no use; empty when it serves or soon will."""
    if not deployment.failed or deployment.serving:
        return ""
    summary = deployment_status(deployment).message.partition("\n")[0]
    return f"it failed to deploy: {summary}"


def application_status(application: Application) -> tuple[str, str]:
    """Status and message: the worst of its deployments."""
    if application.deleting:
        return "DELETING", ""
    statuses = [deployment_status(deployment) for deployment in application.target_deployments]
    for bad in ("DEPLOY_FAILED", "UNHEALTHY"):
        for status in statuses:
            if status.status == bad:
                return bad, status.message
    healthy = all(status.status == "HEALTHY" for status in statuses)
    return ("RUNNING" if healthy else "DEPLOYING"), ""


def application_view(application: Application, now: float) -> ApplicationView:
    """The application, all of its deployments, also those on the way out, and their replicas."""
    status, message = application_status(application)
    ingress = application.deployments.get(application.spec.ingress)
    docs_path = "" if ingress is None else ingress.docs_path
    prefix = (application.spec.route_prefix or "").rstrip("/")
    return ApplicationView(
        name=application.spec.name,
        status=status,
        message=message,
        route_prefix=application.spec.route_prefix,
        ingress=application.spec.ingress,
        last_deployed_time_s=application.deployed_at_s,
        deployments=tuple(_deployment_view(d, now) for d in application.deployments.values()),
        docs_path=prefix + docs_path if docs_path else None,
    )


def _deployment_view(deployment: Deployment, now: float) -> DeploymentView:
    status = deployment_status(deployment)
    replicas = tuple(_replica_view(replica, now) for replica in deployment.replicas)
    return DeploymentView(
        name=deployment.id.name,
        status=status.status,
        status_trigger=status.trigger,
        message=status.message,
        target_num_replicas=deployment.spec.num_replicas,
        replica_states=dict(Counter(replica.state for replica in replicas)),
        replicas=replicas,
        options=deployment.spec.options,
    )


def _replica_view(replica: Replica, now: float) -> ReplicaView:
    return ReplicaView(
        replica_id=replica.replica_id,
        state=_REPLICA_STATES[replica.state],
        pid=replica.pid,
        version=replica.version,
        age_s=now - replica.created_at,
    )
