"""From what the controller knows to the documents that it shows: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, cast

from msgspec.structs import replace

from salver.controller.api_records import StatusAnswer, replica_log
from salver.controller.instance_details import (
    NODE,
    ActorDetails,
    ApplicationDetails,
    AutoscalingDecision,
    AutoscalingDetails,
    ControllerHealthMetrics,
    DeadReplicaDetails,
    DeploymentDetails,
    DeploymentNode,
    DeploymentTopology,
    HTTPDetails,
    InstanceDetails,
    ProxyDetails,
    ReplicaDetails,
    Target,
    TargetGroup,
)
from salver.engine.local.instance import InstanceInfo
from salver.records import JsonDict
from salver.telemetry.log_file import log_file_path
from salver.views import ApplicationView, DeploymentView, EndedReplica, ReplicaView, ScalingView

DECLARATIVE = "declarative"
IMPERATIVE = "imperative"
_TAKE_REQUESTS = frozenset({"RUNNING", "RECOVERING", "UPDATING"})
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nobody listens here


class Build(Protocol):
    """How far the build of an application from a config is: ``DEPLOYING`` or ``DEPLOY_FAILED``, and why."""

    @property
    def status(self) -> str: ...

    @property
    def message(self) -> str: ...


def with_builds(
    views: Iterable[ApplicationView], builds: Mapping[str, Build], config: JsonDict | None
) -> tuple[ApplicationView, ...]:
    """The applications by name, those included that are still being built, or could not be.

    Args:
        builds: by application; one that is not in it was built.
        config: the config of the whole instance, None when there is none.
    """
    stated = {each.get("name", "default"): each for each in _applications_of(config)}
    shown = {view.name: view for view in views}
    for name, build in builds.items():
        known = shown.get(name)
        if known is None:
            app = stated.get(name, {})
            shown[name] = ApplicationView(
                name, build.status, build.message, app.get("route_prefix", "/"), "", 0.0, (), config=app or None
            )
        elif known.status != "DELETING":
            shown[name] = replace(known, status=build.status, message=build.message)
    return tuple(shown[name] for name in sorted(shown))


def _applications_of(config: JsonDict | None) -> list[JsonDict]:
    return [] if config is None else cast("list[JsonDict]", config.get("applications") or [])


def instance_details(
    answer: StatusAnswer,
    config: JsonDict | None,
    source: str = "",
    health: ControllerHealthMetrics | None = None,
) -> InstanceDetails:
    """The document of the whole instance.

    Args:
        config: what the instance was last told to be, None when only code has deployed.
        source: only applications of this origin, ``declarative`` or ``imperative``; empty for all.
        health: of the controller.
    """
    info = answer.instance
    applications = [_application(view, answer.logs) for view in answer.applications]
    return InstanceDetails(
        controller_info=ActorDetails(
            actor_name="controller",
            pid=answer.controller_pid,
            log_file_path=log_file_path(answer.logs, "controller", str(answer.controller_pid)),
        ),
        proxy_location=(config or {}).get("proxy_location") or "EveryNode",
        http_options=HTTPDetails(info.host, info.port, info.tls, info.root_url),
        proxies={NODE: _proxy(answer)},
        applications={each.name: each for each in applications if source in {"", each.source}},
        target_capacity=answer.target_capacity,
        target_groups=tuple(_target_group(info, view) for view in answer.applications if view.route_prefix),
        controller_health_metrics=health,
        instance=info.name,
        version=info.version,
    )


def _proxy(answer: StatusAnswer) -> ProxyDetails:
    pids = answer.proxy_pids
    return ProxyDetails(
        actor_name="proxy",
        status="HEALTHY" if pids else "STARTING",
        pid=pids[0] if pids else None,
        pids=pids,
        log_file_path=log_file_path(answer.logs, "proxy", str(pids[0])) if pids else None,
    )


def _target_group(info: InstanceInfo, view: ApplicationView) -> TargetGroup:
    target = Target(_ANY_ADDRESS.get(info.host, info.host), info.port, "", f"proxy of {info.name}")
    return TargetGroup((target,), view.route_prefix or "", "HTTP", view.name, (), view.ingress or None)


def _application(view: ApplicationView, logs: str) -> ApplicationDetails:
    return ApplicationDetails(
        name=view.name,
        route_prefix=view.route_prefix,
        docs_path=view.docs_path,
        status=view.status,
        message=view.message,
        last_deployed_time_s=view.last_deployed_time_s,
        deployed_app_config=view.config,
        source=IMPERATIVE if view.config is None else DECLARATIVE,
        deployments={each.name: _deployment(each, logs) for each in view.deployments},
        external_scaler_enabled=view.external_scaler,
        deployment_topology=_topology(view) if view.deployments else None,
        can_roll_back=view.can_roll_back,
    )


def _topology(view: ApplicationView) -> DeploymentTopology:
    nodes = {
        each.name: DeploymentNode(
            name=each.name,
            app_name=view.name,
            outbound_deployments=tuple({"name": callee.name, "app_name": callee.app} for callee in each.calls),
            is_ingress=each.name == view.ingress,
        )
        for each in view.deployments
    }
    return DeploymentTopology(view.name, nodes, view.ingress or None)


def _deployment(view: DeploymentView, logs: str) -> DeploymentDetails:
    return DeploymentDetails(
        name=view.name,
        status=view.status,
        status_trigger=view.status_trigger,
        message=view.message,
        deployment_config={"name": view.name, **view.options},
        target_num_replicas=view.target_num_replicas,
        required_resources=_resources(view.options),
        replicas=tuple(_replica(each, logs) for each in view.replicas),
        recent_dead_replicas=tuple(_ended(each, logs) for each in view.ended),
        autoscaling_detail=None if view.scaling is None else _scaling(view.scaling),
        version=view.version,
    )


def _resources(options: JsonDict) -> dict[str, float]:
    """What each replica reserves, by Ray's names; what its options do not state is not reserved."""
    stated: dict[str, Any] = options.get("ray_actor_options") or {}
    named = {"CPU": stated.get("num_cpus"), "GPU": stated.get("num_gpus"), "memory": stated.get("memory")}
    everything: dict[str, Any] = {**named, **(stated.get("resources") or {})}
    return {name: float(amount) for name, amount in everything.items() if amount}


def _replica(view: ReplicaView, logs: str) -> ReplicaDetails:
    return ReplicaDetails(
        actor_name=view.replica_id,
        log_file_path=replica_log(view, logs),
        pid=view.pid,
        replica_id=view.replica_id,
        state=view.state,
        start_time_s=view.start_time_s,
        reason=view.reason,
        age_s=view.age_s,
        version=view.version,
        rank=view.rank,
        gpus=view.gpus,
        ongoing=view.ongoing,
        rss_bytes=view.rss_bytes,
    )


def _ended(ended: EndedReplica, logs: str) -> DeadReplicaDetails:
    return DeadReplicaDetails(
        actor_name=ended.replica_id,
        log_file_path=replica_log(ended, logs),
        pid=ended.pid,
        replica_id=ended.replica_id,
        state="STOPPED",
        start_time_s=ended.start_time_s,
        reason=ended.reason,
        age_s=ended.ended_at_s - ended.start_time_s,
        version=ended.version,
        rank=ended.rank,
        gpus=ended.gpus,
        ended_at_s=ended.ended_at_s,
        cause=ended.cause,
        exit=ended.exit,
        exit_code=ended.exit_code,
    )


def _scaling(view: ScalingView) -> AutoscalingDetails:
    return AutoscalingDetails(
        scaling_status=view.status,
        decisions=tuple(map(AutoscalingDecision.of, view.decisions)),
        metrics={"queued_requests": view.queued, "running_requests": view.running, "desired_replicas": view.desired},
        metrics_health="healthy",
        errors=(view.error,) if view.error else (),
    )


def unready(views: Iterable[ApplicationView]) -> dict[str, str]:
    """The applications that requests should not be sent to yet, or no longer, each with the reason.

    An application is ready while each of its deployments has a replica that takes requests, or is scaled to none on
    purpose. Neither an update makes it unready nor a new controller: replicas serve meanwhile.
    """
    reasons = {view.name: _why_unready(view) for view in views}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_unready(view: ApplicationView) -> str:
    if view.status == "DELETING":
        return "it is being deleted"
    if not view.deployments:
        return f"it is {view.status}"
    for deployment in view.deployments:
        if deployment.status_trigger == "DELETING" or not _TAKE_REQUESTS.isdisjoint(deployment.replica_states):
            continue
        if deployment.target_num_replicas or deployment.status != "HEALTHY":
            return f"deployment {deployment.name} has no running replica ({deployment.status})"
    return ""
