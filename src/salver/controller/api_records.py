"""What the control API answers, for both of its sides."""

from __future__ import annotations

from msgspec import Struct

from salver.controller.build_messages import Mistake
from salver.engine.local.instance import InstanceInfo
from salver.telemetry.log_file import log_file_path
from salver.views import ApplicationView, EndedReplica, Happening, ReplicaView


class Declaration(Struct, frozen=True):
    """The config that was accepted last, and what has come of it.

    Attributes:
        accepted_at_s: seconds since 1970; no two of an instance have the same.
        deployed_at_s: of the applications that were built and deployed, the ``last_deployed_time_s`` that they had
            then; one that has another by now was deployed or rolled back by somebody else.
    """

    accepted_at_s: float
    deployed_at_s: dict[str, float] = {}


class DeclaredAnswer(Struct, frozen=True):
    """A config is accepted: what it sets without effect, and by what ``Declaration`` it is known."""

    warnings: tuple[str, ...]
    accepted_at_s: float


class CheckBegun(Struct, frozen=True):
    """A config is being checked: what to ask for, and to declare."""

    check: str


class CheckAnswer(Struct, frozen=True):
    """How far the check of a config is.

    Attributes:
        finished: whether there is nothing more to come.
        progress: what is being done, by application.
        mistakes: why it cannot be deployed; none when it is finished and in order.
        overtaken_at_s: when another config was accepted that somebody deployed after this check had begun; None when
            nobody did.
    """

    finished: bool
    progress: dict[str, str]
    mistakes: tuple[Mistake, ...]
    overtaken_at_s: float | None = None


class DeployedAnswer(Struct, frozen=True):
    """An application is accepted; it keeps this time until it is deployed or rolled back again."""

    last_deployed_time_s: float


class StatusAnswer(Struct, frozen=True):
    """The whole state of an instance.

    Attributes:
        declaration: None while no config was deployed.
        logs: the folder of its log files; empty when it has none.
    """

    instance: InstanceInfo
    controller_pid: int
    proxy_pids: tuple[int, ...]
    applications: tuple[ApplicationView, ...]
    target_capacity: float | None = None
    declaration: Declaration | None = None
    logs: str = ""


def replica_log(replica: ReplicaView | EndedReplica, logs: str) -> str | None:
    """Where a replica logs, or did; None when the instance, whose folder is ``logs``, has no log files."""
    return log_file_path(replica.logs_dir or logs, "replica", replica.replica_id) if logs else None


class EventsAnswer(Struct, frozen=True):
    """What has happened; ``last`` is the number of the latest of all, whoever it concerns."""

    events: tuple[Happening, ...]
    last: int


class ReadyAnswer(Struct, frozen=True, omit_defaults=True):
    """Whether an instance can take requests.

    Attributes:
        status: ``ok`` or ``not ready``.
        unready: reasons, by application; None when they were not asked for, or are nobody's business.
    """

    status: str
    unready: dict[str, str] | None = None


class VersionAnswer(Struct, frozen=True):
    """What Ray's clients ask first; ``salver_version`` is an addition of ours."""

    version: str
    ray_version: str
    ray_commit: str
    session_name: str
    salver_version: str
