"""The vocabulary of failures.

Every error of ours has one root and says whose fault it is: the caller's request, the user's code, the
user's configuration, or ours. ``salver.serve.exceptions`` is the public door to the ones users handle.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class ServeException(Exception):
    """The root of everything that Salver raises on purpose (``RayServeException`` there)."""


class BackPressureError(ServeException):
    """The queue of this caller is full: the request was not started and may be sent again later.

    Args:
        num_queued_requests: requests waiting in this caller's queue when this one was refused.
        max_queued_requests: the deployment's limit on them.
        status_code: what the HTTP ingress answers, 503 or 429.
        retry_after_s: the ``Retry-After`` that it sends, when not None.
    """

    def __init__(
        self,
        num_queued_requests: int,
        max_queued_requests: int,
        status_code: int = 503,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(num_queued_requests, max_queued_requests, status_code, retry_after_s)
        self.num_queued_requests = num_queued_requests
        self.max_queued_requests = max_queued_requests
        self.status_code = status_code
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        return (
            f"Request dropped due to backpressure (num_queued_requests={self.num_queued_requests}, "
            f"max_queued_requests={self.max_queued_requests})."
        )

    def __str__(self) -> str:
        return self.message


class DeploymentUnavailableError(ServeException):
    """The deployment was deleted, was never deployed, or failed to deploy: waiting would not help.

    Args:
        deployment_id: the deployment, as ``app#name``.
        reason: why, in a sentence; shown after the name.
    """

    def __init__(self, deployment_id: object, reason: str = "") -> None:
        super().__init__(deployment_id, reason)
        self.deployment_id = deployment_id
        self.reason = reason

    @property
    def message(self) -> str:
        return f"Deployment {self.deployment_id} is unavailable. {self.reason}".rstrip()

    def __str__(self) -> str:
        return self.message


class ReplicaUnavailableError(ServeException):
    """The replica died or was lost while it ran this request; the outcome is unknown, so it was not retried.

    Args:
        replica_id: which replica.
        reason: for a request that only this replica could take and that was never sent: why not, in a sentence.
    """

    def __init__(self, replica_id: object, reason: str = "") -> None:
        super().__init__(replica_id, reason)
        self.replica_id = replica_id
        self.reason = reason

    def __str__(self) -> str:
        if self.reason:
            return f"Replica {self.replica_id} is unavailable. {self.reason}"
        return f"Replica {self.replica_id} died while it ran this request."


class RequestCancelledError(ServeException):
    """The request was cancelled, by ``.cancel()`` or because its client went away."""

    def __init__(self, request_id: str | None = None) -> None:
        super().__init__(request_id)
        self.request_id = request_id

    def __str__(self) -> str:
        return f"Request {self.request_id} was cancelled." if self.request_id else "Request was cancelled."


class RequestTimeoutError(ServeException, TimeoutError):
    """The request's deadline passed before it was answered; what ran for it was cancelled.

    Args:
        request_id: of the request at the root.
        timeout_s: how long it had, in seconds, where that is known.
    """

    def __init__(self, request_id: str = "", timeout_s: float | None = None) -> None:
        super().__init__(request_id, timeout_s)
        self.request_id = request_id
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        after = "" if self.timeout_s is None else f" after {self.timeout_s:g}s"
        return f"Request {self.request_id} timed out{after}."


class SerializationError(ServeException):
    """An argument, a result or an exception cannot be pickled; the message names the object by its path."""


class RemoteException(ServeException):
    """User code raised an exception that cannot be rebuilt here; its type, text and traceback are in the message."""


class ConfigurationError(ServeException, ValueError):
    """A wrong option or a wrong use of the API; the message says what is allowed.

    Attributes:
        about: where that is in the configuration of the application: keys from the outside; empty when nobody knows.
    """

    about: tuple[int | str, ...] = ()


@contextmanager
def placed(*keys: int | str) -> Generator[None]:
    """What is wrong with the configuration in here is about what is at ``keys``."""
    try:
        yield
    except ConfigurationError as error:
        error.about = (*keys, *error.about)
        raise


class StartupError(ServeException):
    """Salver itself could not start: the port is taken, a folder is not ours, a process did not come up."""


class ProtocolError(ServeException):
    """The other side of one of our own connections broke the protocol: a bug of ours, or not one of ours at all."""
