"""What the controller publishes to everyone who routes: the whole routing table, versioned.

A snapshot replaces the one before it. Subscribers keep serving from the last one when the controller is away,
so a snapshot must always be complete and true enough to live on: the controller publishes none before it has
found the replicas that already run.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct


class ReplicaRoute(Struct, frozen=True, array_like=True):
    """A replica that takes requests.

    Attributes:
        replica_id: ``app#deployment#suffix``.
        address: where to dial it: ``unix:/path`` or ``memory:id``.
        slot: its place on the load board.
    """

    replica_id: str
    address: str
    slot: int


class DeploymentRoute(Struct, frozen=True, array_like=True):
    """A deployment and its replicas.

    Attributes:
        key: ``app#deployment``.
        unavailable: why no request can be served and waiting would not help; empty when it can or soon will.
        backpressure_status, retry_after_s: what an HTTP client hears when the queue is full.
        idempotent: a request may be sent again after its replica died.
    """

    key: str
    replicas: tuple[ReplicaRoute, ...]
    max_ongoing_requests: int
    max_queued_requests: int
    unavailable: str = ""
    backpressure_status: int = 503
    retry_after_s: float | None = None
    idempotent: bool = False


class ApplicationRoute(Struct, frozen=True, array_like=True):
    """An application and where its HTTP requests go.

    Attributes:
        route_prefix: None when it is not exposed.
        timeout_status: what a client hears when its deadline has passed; 0 is as the proxy was told.
        access_log: whether its requests have lines in the access log, where there is one.
    """

    name: str
    route_prefix: str | None
    ingress: str
    timeout_status: int = 0
    access_log: bool = True


class Snapshot(Struct, frozen=True, array_like=True):
    """The routing table.

    Attributes:
        epoch: which controller made it, growing with every start of one.
        version: its number within the epoch.
        awaited: prefixes of applications that are still to come: requests for them wait, where nothing nearer is.
    """

    epoch: int
    version: int
    applications: tuple[ApplicationRoute, ...] = ()
    deployments: tuple[DeploymentRoute, ...] = ()
    awaited: tuple[str, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Raises msgspec.DecodeError when ``data`` is not a snapshot."""
    return _decoder.decode(data)
