"""What operators will want to know of later, gathered while the core decides."""

from __future__ import annotations

from salver.control.events import Note
from salver.records import ApplicationSpec, DeploymentId
from salver.views import Happening


class Notes:
    """Happenings since they were last taken."""

    def __init__(self) -> None:
        self._taken_next: list[Note] = []

    def of_application(self, kind: str, app: str, message: str) -> None:
        self._taken_next.append(Note(Happening(kind, message, app)))

    def of_deployment(self, kind: str, deployment: DeploymentId, message: str, replica_id: str = "") -> None:
        self._taken_next.append(Note(Happening(kind, message, deployment.app, deployment.name, replica_id)))

    def take(self) -> list[Note]:
        """All of them, once."""
        taken, self._taken_next = self._taken_next, []
        return taken


def described(spec: ApplicationSpec) -> str:
    """``3 deployments at /shop``."""
    count = len(spec.deployments)
    where = f"at {spec.route_prefix}" if spec.route_prefix is not None else "without a route"
    return f"{count} deployment{'' if count == 1 else 's'} {where}"
