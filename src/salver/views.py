"""Records for people: the state of things as ``status``, the control API and the dashboard show it."""

from __future__ import annotations

from msgspec import Struct

from salver.records import JsonDict


class ReplicaView(Struct, frozen=True):
    """One replica.

    Attributes:
        state: the reference's enum value.
        reason: why it is in that state, for people; empty when it runs.
        age_s: since its process was asked for, whoever was the controller then.
        rank: its number among the deployment's replicas; -1 while it has none.
        gpus: indices of those that it has.
        ongoing: requests that it runs; None when that is not known.
        rss_bytes: its memory; None when that is not known.
    """

    replica_id: str
    state: str
    pid: int | None
    version: str
    age_s: float
    reason: str = ""
    rank: int = -1
    gpus: tuple[int, ...] = ()
    ongoing: int | None = None
    rss_bytes: int | None = None
    start_time_s: float = 0.0


class ScalingView(Struct, frozen=True):
    """How autoscaling sees one deployment.

    Attributes:
        status: ``UPSCALING``, ``DOWNSCALING`` or ``STABLE``.
        queued, running: requests, as last counted.
        desired: what the policy says, before delays.
        decisions: the last ones, oldest first.
        error: why the policy cannot decide; empty when it can.
        requests: queued and running, summed up over the look-back period: what the policy sees.
        low, high: the bounds, after the target capacity.
    """

    status: str
    queued: float
    running: float
    desired: int
    decisions: tuple[ScalingDecision, ...] = ()
    error: str = ""
    requests: float = 0.0
    low: int = 0
    high: int = 0


class ScalingDecision(Struct, frozen=True):
    """One change of a number of replicas; ``at_s`` in seconds since 1970."""

    at_s: float
    reason: str
    before: int
    after: int


class DeploymentView(Struct, frozen=True):
    """One deployment; status and trigger are the reference's enum values."""

    name: str
    status: str
    status_trigger: str
    message: str
    target_num_replicas: int
    replica_states: dict[str, int]
    replicas: tuple[ReplicaView, ...]
    options: JsonDict
    scaling: ScalingView | None = None
    version: str = ""


class ApplicationView(Struct, frozen=True):
    """One application.

    Attributes:
        docs_path: where it documents itself, None for nowhere.
        config: the part of a config file that it was built from; None when code deployed it.
    """

    name: str
    status: str
    message: str
    route_prefix: str | None
    ingress: str
    last_deployed_time_s: float
    deployments: tuple[DeploymentView, ...]
    docs_path: str | None = None
    config: JsonDict | None = None
    external_scaler: bool = False
    can_roll_back: bool = False


class Happening(Struct, frozen=True):
    """Something that an operator wants to know of later: a deploy, a scale decision, a replica's end.

    Attributes:
        kind: ``deploy``, ``delete``, ``rollback``, ``scale``, ``replica`` (started, exited), ``health``,
            ``recycle``, ``reconfigure``, ``config``, ``controller``, ``proxy``.
        message: for people, with the reason or cause.
        at_s: seconds since 1970.
        number: grows with every happening of an instance; 0 before it was recorded.
    """

    kind: str
    message: str
    app: str = ""
    deployment: str = ""
    replica_id: str = ""
    at_s: float = 0.0
    number: int = 0
