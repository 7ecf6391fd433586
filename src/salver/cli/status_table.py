"""The state of an instance as text: sentences for applications, tables of deployments and replicas."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from salver.control.leaving import FAILURES
from salver.control.placement import amount_of_bytes
from salver.controller.api_records import StatusAnswer
from salver.views import ApplicationView, DeploymentView, ReplicaView

_GOOD = frozenset({"RUNNING", "HEALTHY"})
_BAD = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})
_LATELY_S = 600.0
_UNBOUNDED = 10_000
"""Columns of what is no terminal: nobody greps for half a line."""


def console(*, err: bool = False) -> Console:
    """Where tables go: stdout, or stderr."""
    made = Console(stderr=err, highlight=False)
    if not made.is_terminal:
        made.width = _UNBOUNDED
    return made


def overview(answer: StatusAnswer, views: Sequence[ApplicationView]) -> RenderableType:
    """All about the instance and the applications ``views`` of it."""
    info = answer.instance
    parts: list[RenderableType] = [
        Text(f"Instance {info.name} · {info.root_url or info.url} · supervisor {info.pid}"),
        *(_sentence(view, time.time()) for view in views),
        deployments_table(views, detailed=True),
    ]
    if any(deployment.replicas for view in views for deployment in view.deployments):
        parts += [Text(), _replicas_table(views)]
    return Group(*parts)


def deployments_table(views: Iterable[ApplicationView], *, detailed: bool = False) -> Table:
    """A line for each deployment; ``detailed``: with what set it going, and how it scales."""
    details = ("TRIGGER", "SCALING") if detailed else ()
    table = _new_table("APPLICATION", "DEPLOYMENT", "STATUS", "REPLICAS", "ROUTE", *details, "RESOURCES")
    for view in views:
        for deployment in view.deployments:
            table.add_row(
                Text(view.name),
                Text(deployment.name),
                _state(deployment.status),
                f"{deployment.replica_states.get('RUNNING', 0)}/{deployment.target_num_replicas}",
                Text(view.route_prefix or "-"),
                *([Text(deployment.status_trigger), _scaling(deployment)] if detailed else []),
                _resources(deployment),
            )
    return table


def _replicas_table(views: Iterable[ApplicationView]) -> Table:
    table = _new_table("REPLICA", "STATE", "AGE", "PID", "MEMORY", "LOAD", "VERSION", "REASON")
    for view in views:
        for deployment in view.deployments:
            slots = deployment.options.get("max_ongoing_requests", "?")
            for replica in deployment.replicas:
                table.add_row(
                    Text(replica.replica_id),
                    _state(replica.state),
                    duration(replica.age_s),
                    "-" if replica.pid is None else str(replica.pid),
                    _memory(replica),
                    "-" if replica.ongoing is None else f"{replica.ongoing}/{slots}",
                    Text(replica.version),
                    Text(replica.reason),
                )
    return table


def _new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in {"RESOURCES", "REASON", "SCALING"})
    return table


def _sentence(view: ApplicationView, now: float) -> Text:
    """What its application is, every message about it and its deployments, and what has failed there of late."""
    text = Text.assemble(view.name, " is ", _state(view.status), f": {view.message}" if view.message else "")
    for deployment in view.deployments:
        if deployment.message and deployment.message not in view.message:
            text.append(f"\n  {deployment.name}: {deployment.message}")
        elif lately := _failed_lately(deployment, now):
            text.append(f"\n  {deployment.name}: {lately}")
    return text


def _failed_lately(deployment: DeploymentView, now: float) -> str:
    """What it has got over; empty when that is nothing, or its message tells of it."""
    ended = [each for each in deployment.ended if now - each.ended_at_s < _LATELY_S and each.cause in FAILURES]
    if not ended or deployment.message:
        return ""
    count, last = f"{len(ended)} replica{'s'[: len(ended) > 1]}", ended[-1]
    ago = duration(max(now - last.ended_at_s, 0.0))
    return f"{count} ended in the last {duration(_LATELY_S)}; {ago} ago {last.replica_id} {last.reason}"


def _state(state: str) -> Text:
    return Text(state, style="green" if state in _GOOD else "red" if state in _BAD else "yellow")


def duration(seconds: float) -> str:
    """``45s``, ``3m``, ``2h 5m``, ``4d 1h``: as exact as people want it."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes}m"
    return f"{hours}h {minutes % 60}m" if not days else f"{days}d {hours % 24}h"


def _memory(replica: ReplicaView) -> str:
    return "-" if replica.rss_bytes is None else f"{replica.rss_bytes / 1e6:.0f} MB"


def _scaling(deployment: DeploymentView) -> Text:
    """``1-10, wants 3 (load 4.5)``; a policy's error instead, when it has one."""
    scaling = deployment.scaling
    if scaling is None:
        return Text("-")
    if scaling.error:
        return Text(scaling.error, style="red")
    limits: dict[str, Any] = deployment.options.get("autoscaling_config") or {}
    bounds = f"{limits.get('min_replicas', '?')}-{limits.get('max_replicas', '?')}"
    return Text(f"{bounds}, wants {scaling.desired} (load {scaling.queued + scaling.running:g})")


def _resources(deployment: DeploymentView) -> Text:
    """``0.2 CPU, 1 GPU, memory 512 MiB, 2 npu``, as the user stated them."""
    stated: dict[str, Any] = deployment.options.get("ray_actor_options") or {}
    custom: dict[str, float] = stated.get("resources") or {}
    parts = [
        f"{stated[key]:g} {label}" for key, label in (("num_cpus", "CPU"), ("num_gpus", "GPU")) if stated.get(key)
    ]
    if stated.get("memory"):
        parts.append(f"memory {amount_of_bytes(stated['memory'])}")
    parts += [f"{amount:g} {name}" for name, amount in custom.items()]
    return Text(", ".join(parts) or "-")
