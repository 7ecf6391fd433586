"""``ray.exceptions``: the names that code written for Ray imports, as what Salver raises in these cases.

An exception of user code arrives as the user's own class and nothing else: ``except RayTaskError`` catches only those
that could not be rebuilt here. ``except ValueError`` works as there.
"""

from __future__ import annotations

from salver.errors import RemoteException, ReplicaUnavailableError, RequestCancelledError, ServeException

RayError = ServeException
RayActorError = ActorDiedError = ActorUnavailableError = ReplicaUnavailableError
RayTaskError = RemoteException
TaskCancelledError = RequestCancelledError
GetTimeoutError = TimeoutError

__all__ = [
    "ActorDiedError",
    "ActorUnavailableError",
    "GetTimeoutError",
    "RayActorError",
    "RayError",
    "RayTaskError",
    "TaskCancelledError",
]
