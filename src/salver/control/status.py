"""What people are told: statuses derived from the state, never stored. Values are the reference's enums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from salver.control.application import Application
from salver.control.backoff import CALM_S
from salver.control.deployment import Deployment, Membership
from salver.control.failure import Failure, in_words, summary_of, what_follows
from salver.control.progress import Goal
from salver.control.replica import Replica, State
from salver.records import DeploymentId
from salver.views import ApplicationView, DeploymentView, EndedReplica, ReplicaView

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


class DeploymentStatus(Struct, frozen=True):
    """The reference's status and trigger, and a message for people, empty when all is well."""

    status: str
    trigger: str
    message: str


def deployment_status(deployment: Deployment, now: float) -> DeploymentStatus:
    """How the deployment is doing."""
    failure, progress = deployment.last_failure, deployment.progress
    message = _failure_message(deployment, failure, now) if failure else ""
    if deployment.waits_for:
        message = "\n".join(filter(None, (f"waiting for room: {deployment.waits_for}", message)))
    if deployment.membership is Membership.REMOVED:
        return DeploymentStatus("UPDATING", "DELETING", "")
    if deployment.failed:
        trigger = failure.trigger if failure else "REPLICA_STARTUP_FAILED"
        return DeploymentStatus("DEPLOY_FAILED", trigger, message)
    lasting = deployment.waits_for or deployment.backoff.looping  # worth saying although everything runs
    if progress.reached and deployment.settled:
        return DeploymentStatus("HEALTHY", _COMPLETED[progress.goal], message if lasting else "")
    if _unhealthy(deployment):
        return DeploymentStatus("UNHEALTHY", failure.trigger if failure else "UNSPECIFIED", message)
    if progress.reached:
        return DeploymentStatus("HEALTHY", _COMPLETED[progress.goal], message)
    trigger = _AUTOSCALING if progress.automatic else "CONFIG_UPDATE_STARTED"
    return DeploymentStatus(progress.goal.value, trigger, message)


def _failure_message(deployment: Deployment, failure: Failure, now: float) -> str:
    """What failed last and what follows from it; of a crash loop, how often that was so, and in which time."""
    backoff = deployment.backoff
    wait_s = backoff.not_before - now
    if not backoff.looping or deployment.failed:
        summary, newline, traceback = failure.message.partition("\n")
        return summary + what_follows(failure, wait_s) + newline + traceback
    if deployment.settled:
        following = f"all run for now; over after {in_words(CALM_S)} of that"
    else:
        following = f"the next attempt in {in_words(wait_s)}" if wait_s > 0 else "another attempt is under way"
    often = f"{backoff.failures} failures in {in_words(backoff.lasted_s)}"
    return f"crash loop: {often}; {following}; the last: {failure.message}"


def _unhealthy(deployment: Deployment) -> bool:
    """Of a deployment that lacks replicas: whether failures are to blame, and more than a passing one."""
    if deployment.progress.reached and not deployment.running:
        return True
    return deployment.version_ran and deployment.backoff.failures >= FAILURES_OF_THE_UNHEALTHY


def unavailable_reason(deployment: Deployment) -> str:
    """Why waiting for it is no use; empty when it serves or soon will."""
    if deployment.serving:
        return ""
    summary = summary_of(deployment.last_failure) if deployment.last_failure else ""
    if deployment.failed:
        return f"it failed to deploy: {summary}"
    if deployment.backoff.looping:
        return f"its replicas crash again and again: {summary}"
    return ""


def application_status(application: Application, now: float) -> tuple[str, str]:
    """Status and message: the worst of its deployments."""
    if application.deleting:
        return "DELETING", ""
    statuses = [deployment_status(deployment, now) for deployment in application.target_deployments]
    for bad in ("DEPLOY_FAILED", "UNHEALTHY"):
        for status in statuses:
            if status.status == bad:
                return bad, status.message
    if all(status.status == "HEALTHY" or status.trigger == _AUTOSCALING for status in statuses):
        return "RUNNING", ""
    return "DEPLOYING", next((status.message for status in statuses if status.message), "")


def application_view(
    application: Application,
    now: float,
    wall_clock_offset: float,
    ended: Callable[[DeploymentId], tuple[EndedReplica, ...]],
) -> ApplicationView:
    """The application, all of its deployments, also those on the way out, and their replicas.

    Args:
        ended: gives the replicas of a deployment that have ended of late.
    """
    status, message = application_status(application, now)
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
        deployments=tuple(
            _deployment_view(each, now, wall_clock_offset, ended(each.id))
            for each in application.deployments.values()
        ),
        docs_path=prefix + docs_path if docs_path else None,
        config=application.spec.config,
        external_scaler=application.spec.external_scaler,
        can_roll_back=application.good is not None and not application.deleting,
    )


def _deployment_view(
    deployment: Deployment, now: float, wall_clock_offset: float, ended: tuple[EndedReplica, ...]
) -> DeploymentView:
    status = deployment_status(deployment, now)
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
        calls=deployment.spec.calls,
        ended=ended,
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
        logs_dir="" if replica.deployment.logging is None else replica.deployment.logging.logs_dir,
    )
