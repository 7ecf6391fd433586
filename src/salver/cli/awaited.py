"""The deploy that a command waits for: which applications, and by what it is told from one that comes after it."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from salver.controller.api_records import StatusAnswer
from salver.views import ApplicationView


class Awaited(Struct, frozen=True):
    """One deploy that was accepted.

    Attributes:
        names: of its applications.
        accepted_at_s: of a config: its ``Declaration``'s.
        deployed_at_s: of an application that code or a rollback brought: its ``last_deployed_time_s``.
    """

    names: tuple[str, ...]
    accepted_at_s: float | None = None
    deployed_at_s: float | None = None

    def views(self, status: StatusAnswer) -> dict[str, ApplicationView]:
        """Its applications, by name. The deployments of one that is still being built are those from before."""
        views = {view.name: view for view in status.applications if view.name in self.names}
        if self.accepted_at_s is None:
            return views
        built = self._deployed(status)
        return {name: view if name in built else replace(view, deployments=()) for name, view in views.items()}

    def replaced_at_s(self, status: StatusAnswer) -> float | None:
        """When somebody else has deployed instead, seconds since 1970; None when nobody has."""
        accepted_at_s = None if status.declaration is None else status.declaration.accepted_at_s
        if None not in (self.accepted_at_s, accepted_at_s) and accepted_at_s != self.accepted_at_s:
            return accepted_at_s
        deployed = self._deployed(status)
        for name, view in self.views(status).items():
            # without a time it is being built for the first time
            is_wanted = view.last_deployed_time_s and view.status != "DELETING"
            if name in deployed and is_wanted and view.last_deployed_time_s != deployed[name]:
                return view.last_deployed_time_s
        return None

    def _deployed(self, status: StatusAnswer) -> dict[str, float]:
        """The times of those applications that this deploy has deployed."""
        if self.deployed_at_s is not None:
            return dict.fromkeys(self.names, self.deployed_at_s)
        return {} if status.declaration is None else status.declaration.deployed_at_s
