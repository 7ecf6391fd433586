"""What the control API answers, for both of its sides."""

from __future__ import annotations

from msgspec import Struct

from salver.engine.local.instance import InstanceInfo
from salver.views import ApplicationView, Happening


class StatusAnswer(Struct, frozen=True):
    """The whole state of an instance."""

    instance: InstanceInfo
    controller_pid: int
    proxy_pids: tuple[int, ...]
    applications: tuple[ApplicationView, ...]
    target_capacity: float | None = None


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
