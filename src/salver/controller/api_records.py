"""What the control API answers, for both of its sides."""

from __future__ import annotations

from msgspec import Struct

from salver.engine.local.instance import InstanceInfo
from salver.views import ApplicationView


class StatusAnswer(Struct, frozen=True):
    """The whole state of an instance."""

    instance: InstanceInfo
    controller_pid: int
    proxy_pids: tuple[int, ...]
    applications: tuple[ApplicationView, ...]
