"""Records for people: the state of things as ``status``, the control API and the dashboard show it."""

from __future__ import annotations

from msgspec import Struct

from salver.records import DeploymentId, JsonDict


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
        logs_dir: where its log is, when that is not the instance's folder.
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
    logs_dir: str = ""


class EndedReplica(Struct, frozen=True):
    """A replica whose process is gone, or never was.

    Attributes:
        pid: of the process that it had; None when it had none.
        start_time_s, ended_at_s: seconds since 1970.
        cause: why it left, a value of ``control.leaving.Cause``.
        reason: the same for people, after the replica's name.
        exit: how its process ended, for people; empty when there was none. A replica that was told to leave and did
            not in time has been killed all the same.
        exit_code: as ``subprocess`` has it: a signal as a negative number; None when it is not known.
        rank, gpus: as it had them last.
        logs_dir: where its log is, when that is not the instance's folder.
    """

    replica_id: str
    deployment: DeploymentId
    version: str
    pid: int | None
    start_time_s: float
    ended_at_s: float
    cause: str
    reason: str
    exit: str = ""
    exit_code: int | None = None
    rank: int = -1
    gpus: tuple[int, ...] = ()
    logs_dir: str = ""


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
    """One deployment; status and trigger are the reference's enum values.

    Attributes:
        calls: the deployments whose handles it was bound with.
        ended: its replicas that have ended of late, oldest first.
    """

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
    calls: tuple[DeploymentId, ...] = ()
    ended: tuple[EndedReplica, ...] = ()


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
