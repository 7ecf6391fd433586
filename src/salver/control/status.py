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
    State.UPDATING: "UPDATING",
    State.BLOCKED: "RUNNING",
    State.HUNG: "RUNNING",
    State.DRAINING: "STOPPING",
    State.KILLING: "STOPPING",
}

_COMPLETED = {
    Goal.UPDATE: "CONFIG_UPDATE_COMPLETED",
    Goal.UPSCALE: "UPSCALE_COMPLETED",
    Goal.DOWNSCALE: "DOWNSCALE_COMPLETED",
}

_AUTOSCALING = "AUTOSCALING"
"""The trigger of a change that nobody waits for: the application runs meanwhile."""

FAILURES_OF_THE_UNHEALTHY = 2
"""One failure while others serve is replaced before anyone should look."""

FAILURES_OF_A_CRASH_LOOP = 5
"""More than these in a row, and requests are refused while no replica runs, rather than left to wait."""


class DeploymentStatus(Struct, frozen=True):
    """The reference's status and trigger, and a message for people, empty when all is well."""

    status: str
    trigger: str
    message: str


def deployment_status(deployment: Deployment) -> DeploymentStatus:
    """How the deployment is doing."""
    failure = deployment.last_failure
    message = failure.message if failure else ""
    if deployment.waits_for:
        message = "\n".join(filter(None, (f"waiting for room: {deployment.waits_for}", message)))
    if deployment.membership is Membership.REMOVED:
        return DeploymentStatus("UPDATING", "DELETING", "")
    if deployment.failed:
        trigger = failure.trigger if failure else "REPLICA_STARTUP_FAILED"
        return DeploymentStatus("DEPLOY_FAILED", trigger, message)
    if deployment.reached and deployment.settled:
        return DeploymentStatus("HEALTHY", _COMPLETED[deployment.goal], message if deployment.waits_for else "")
    if _unhealthy(deployment):
        return DeploymentStatus("UNHEALTHY", failure.trigger if failure else "UNSPECIFIED", message)
    if deployment.reached:
        return DeploymentStatus("HEALTHY", _COMPLETED[deployment.goal], message)
    trigger = _AUTOSCALING if deployment.scaled_automatically else "CONFIG_UPDATE_STARTED"
    return DeploymentStatus(deployment.goal.value, trigger, message)


def _unhealthy(deployment: Deployment) -> bool:
    """Of a deployment that lacks replicas: whether failures are to blame, and more than a passing one."""
    if deployment.reached and not deployment.running:
        return True
    return deployment.version_ran and deployment.backoff.failures >= FAILURES_OF_THE_UNHEALTHY


def unavailable_reason(deployment: Deployment) -> str:
    """Why waiting for it is no use; empty when it serves or soon will."""
    if deployment.serving:
        return ""
    summary = deployment_status(deployment).message.partition("\n")[0]
    if deployment.failed:
        return f"it failed to deploy: {summary}"
    if deployment.backoff.failures > FAILURES_OF_A_CRASH_LOOP:
        return f"its replicas crash again and again: {summary}"
    return ""


def application_status(application: Application) -> tuple[str, str]:
    """Status and message: the worst of its deployments."""
    if application.deleting:
        return "DELETING", ""
    statuses = [deployment_status(deployment) for deployment in application.target_deployments]
    for bad in ("DEPLOY_FAILED", "UNHEALTHY"):
        for status in statuses:
            if status.status == bad:
                return bad, status.message
    if all(status.status == "HEALTHY" or status.trigger == _AUTOSCALING for status in statuses):
        return "RUNNING", ""
    return "DEPLOYING", next((status.message for status in statuses if status.message), "")


def application_view(application: Application, now: float, wall_clock_offset: float) -> ApplicationView:
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
        deployments=tuple(_deployment_view(d, now, wall_clock_offset) for d in application.deployments.values()),
        docs_path=prefix + docs_path if docs_path else None,
        config=application.spec.config,
        external_scaler=application.spec.external_scaler,
        can_roll_back=application.good is not None and not application.deleting,
    )


def _deployment_view(deployment: Deployment, now: float, wall_clock_offset: float) -> DeploymentView:
    status = deployment_status(deployment)
    replicas = tuple(_replica_view(replica, now, wall_clock_offset) for replica in deployment.replicas)
    return DeploymentView(
        name=deployment.id.name,
        status=status.status,
        status_trigger=status.trigger,
        message=status.message,
        target_num_replicas=deployment.wanted,
        replica_states=dict(Counter(replica.state for replica in replicas)),
        replicas=replicas,
        options=deployment.spec.options,
        scaling=deployment.scaling.view(),
        version=deployment.spec.version,
    )


def _replica_view(replica: Replica, now: float, wall_clock_offset: float) -> ReplicaView:
    return ReplicaView(
        replica_id=replica.replica_id,
        state=_REPLICA_STATES[replica.state],
        pid=replica.pid,
        version=replica.version,
        age_s=now - replica.created_at,
        reason=replica.trouble or replica.worn,
        rank=replica.rank,
        gpus=tuple(index for index, _ in replica.gpus),
        start_time_s=replica.created_at + wall_clock_offset,
    )
