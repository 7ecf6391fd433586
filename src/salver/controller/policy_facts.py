"""What a user's autoscaling policy is told, taken from what the controller knows: specs and views."""

from __future__ import annotations

import msgspec

from salver.controller.policy_messages import Facts, Policies
from salver.records import ApplicationSpec, DeploymentSpec
from salver.views import ApplicationView, DeploymentView


def policies_of(spec: ApplicationSpec) -> Policies | None:
    """The users' policies of an application; None when it has none."""
    deployments = {
        str(deployment.id): deployment.autoscaling.policy
        for deployment in spec.deployments
        if deployment.autoscaling is not None and deployment.autoscaling.policy is not None
    }
    return Policies(spec.policy, deployments) if spec.policy is not None or deployments else None


def decided_by_policies(spec: ApplicationSpec) -> dict[str, DeploymentSpec]:
    """The deployments for which a policy of the user's decides, by ``app#deployment``."""
    return {
        str(deployment.id): deployment
        for deployment in spec.deployments
        if deployment.autoscaling is not None
        and (spec.policy is not None or deployment.autoscaling.policy is not None)
    }


def facts_of(spec: ApplicationSpec, views: tuple[ApplicationView, ...]) -> tuple[Facts, ...]:
    """What those deployments' policies are told; nothing about deployments that are not there yet."""
    deployments = decided_by_policies(spec)
    return tuple(
        _facts(deployments[key], view)
        for application in views
        if application.name == spec.name
        for view in application.deployments
        if (key := f"{spec.name}#{view.name}") in deployments
    )


def _facts(deployment: DeploymentSpec, view: DeploymentView) -> Facts:
    assert deployment.autoscaling is not None
    facts = Facts(
        deployment.id,
        settings=msgspec.structs.replace(deployment.autoscaling, policy=None),
        target=view.target_num_replicas,
        running=tuple(replica.replica_id for replica in view.replicas if replica.state == "RUNNING"),
    )
    scaling = view.scaling
    if scaling is None:
        return facts
    return msgspec.structs.replace(
        facts,
        requests=scaling.requests,
        queued=scaling.queued,
        ongoing=scaling.running,
        low=scaling.low,
        high=scaling.high,
        scaled_up_at_s=max((each.at_s for each in scaling.decisions if each.after > each.before), default=None),
        scaled_down_at_s=max((each.at_s for each in scaling.decisions if each.after < each.before), default=None),
    )
