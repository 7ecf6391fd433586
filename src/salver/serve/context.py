"""What code in a replica may know about where it runs, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from salver.data.context import ReplicaIdentity, ReplicaRank, RequestContext, replica_identity, request_context
from salver.errors import ServeException
from salver.records import DeploymentId

__all__ = ["ReplicaContext", "ReplicaID", "ReplicaRank", "get_replica_context"]


@dataclass(frozen=True)
class ReplicaID:
    """One replica; ``str()`` gives ``app#deployment#unique_id``, as in logs and status."""

    unique_id: str
    deployment_id: DeploymentId

    def to_full_id_str(self) -> str:
        return f"{self.deployment_id}#{self.unique_id}"

    def __str__(self) -> str:
        return self.to_full_id_str()


@dataclass(frozen=True)
class ReplicaContext:
    """The replica that the current code runs in.

    Attributes:
        app_name, deployment: what it is a replica of.
        replica_id: which one.
        servable_object: the user's object, or function; None while it is being constructed.
        code_version: content hash of the deployment's code, arguments and options.
        world_size: how many replicas the deployment should have, as of this replica's last ``reconfigure``.
        rank: its place among them, from 0 without gaps; a replica that takes the place of one that has gone takes
            its rank, and when their number shrinks, ranks are given anew. All nodes are one, so ``local_rank`` is it.
        gang_context: None: there are no gangs of replicas.
    """

    app_name: str
    deployment: str
    replica_id: ReplicaID
    servable_object: Callable[..., Any] | None
    code_version: str
    world_size: int
    rank: ReplicaRank | None = None
    gang_context: None = None

    @property
    def replica_tag(self) -> str:
        """The part of the id that is unique within the deployment."""
        return self.replica_id.unique_id


def get_replica_context() -> ReplicaContext:
    """The replica that the calling code runs in: its constructor, its methods, and the threads of ``def`` methods.

    Raises:
        ServeException: called anywhere else.
    """
    identity = replica_identity.get()
    if identity is None:
        raise ServeException("`serve.get_replica_context()` may only be called from within a Ray Serve deployment.")
    return ReplicaContext(
        identity.app_name,
        identity.deployment,
        _replica_id(identity),
        identity.servable_object,
        identity.code_version,
        identity.world_size,
        identity.rank,
    )


def _replica_id(identity: ReplicaIdentity) -> ReplicaID:
    unique_id = identity.replica_id.rpartition("#")[2]
    return ReplicaID(unique_id, DeploymentId(identity.app_name, identity.deployment))


def _get_serve_request_context() -> RequestContext:  # pyright: ignore[reportUnusedFunction] - name known from Ray
    """The request that the current code works for; the default one, with an empty id, outside of requests."""
    return request_context.get()
