"""The routing table as the state has it: what a snapshot holds, before it has a number."""

from __future__ import annotations

from collections.abc import Iterable

from salver.control.application import Application
from salver.control.deployment import Deployment
from salver.control.status import unavailable_reason
from salver.wire.snapshot import DeploymentRoute, ReplicaRoute, Snapshot


def routing_table(applications: Iterable[Application], epoch: int, version: int) -> Snapshot:
    """Every application that is not being deleted, from its first deploy on: requests queue until it runs."""
    routed = [application for application in applications if application.route is not None]
    return Snapshot(
        epoch=epoch,
        version=version,
        applications=tuple(application.route for application in routed if application.route),
        deployments=tuple(
            _deployment_route(deployment) for application in routed for deployment in application.routed_deployments
        ),
    )


def _deployment_route(deployment: Deployment) -> DeploymentRoute:
    return DeploymentRoute(
        key=str(deployment.id),
        replicas=tuple(ReplicaRoute(r.replica_id, r.address, r.slot) for r in deployment.routed),
        max_ongoing_requests=deployment.spec.max_ongoing_requests,
        max_queued_requests=deployment.spec.max_queued_requests,
        unavailable=unavailable_reason(deployment),
        backpressure_status=deployment.spec.backpressure_status,
        retry_after_s=deployment.spec.retry_after_s,
        idempotent=deployment.spec.idempotent,
    )
