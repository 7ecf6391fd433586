"""What a log record says about the request that it belongs to."""

from __future__ import annotations

from salver.data.context import ReplicaIdentity, replica_identity, request_context


def log_attributes(default: ReplicaIdentity | None = None) -> dict[str, str]:
    """Attributes of records that the current code makes; empty strings outside of requests and replicas.

    Args:
        default: the replica whose process this is, for threads that user code has started: they have no context.
    """
    request = request_context.get()
    replica = replica_identity.get() or default
    return {
        "request_id": request.request_id,
        "route": request.route,
        "application": request.app_name if replica is None else replica.app_name,
        "deployment": "" if replica is None else replica.deployment,
        "replica": "" if replica is None else replica.replica_id,
    }
