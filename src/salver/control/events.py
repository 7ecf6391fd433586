"""What the control core is told and what it asks for. Records only.

A command's outcome comes back as an event, success or failure; a command that is lost is asked again when the
replica's deadline passes, so every command must be idempotent.
"""

from __future__ import annotations

from msgspec import Struct

from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec
from salver.wire.snapshot import Snapshot

# --- events ---------------------------------------------------------------------------------------------


class DeployApplication(Struct, frozen=True):
    """The user wants this application, in place of the one of the same name if there is one."""

    spec: ApplicationSpec


class DeleteApplication(Struct, frozen=True):
    """The user wants this application gone; unknown names are fine."""

    name: str


class FoundProcess(Struct, frozen=True):
    """A replica process that was already running when this controller started."""

    replica_id: str
    deployment: DeploymentId
    version: str
    slot: int
    pid: int
    address: str


class Recover(Struct, frozen=True):
    """The first event of a controller that was restarted: the saved target and the processes that run."""

    target: tuple[ApplicationSpec, ...]
    processes: tuple[FoundProcess, ...]


class ProcessStarted(Struct, frozen=True):
    """StartReplica worked: the process runs and listens at ``address``."""

    replica_id: str
    pid: int
    address: str


class StartFailed(Struct, frozen=True):
    """StartReplica failed; no process exists."""

    replica_id: str
    reason: str


class ReplicaInitialized(Struct, frozen=True):
    """InitializeReplica worked (or the probe found it constructed): it can take requests.

    Attributes:
        docs_path: where its application serves its own documentation, below the route prefix; empty for nowhere.
    """

    replica_id: str
    docs_path: str = ""


class InitializeFailed(Struct, frozen=True):
    """The constructor raised, or the replica could not be reached; ``error`` holds the user's traceback."""

    replica_id: str
    error: str


class ProcessExited(Struct, frozen=True):
    """The process is gone; ``cause`` is for people: ``killed by SIGKILL``, ``exited with code 1``."""

    replica_id: str
    cause: str


class Tick(Struct, frozen=True):
    """Time passed; sent when ``next_deadline()`` is due."""


Event = (
    DeployApplication
    | DeleteApplication
    | Recover
    | ProcessStarted
    | StartFailed
    | ReplicaInitialized
    | InitializeFailed
    | ProcessExited
    | Tick
)

# --- commands -------------------------------------------------------------------------------------------


class StartReplica(Struct, frozen=True):
    """Start a process for this replica. Outcome: ProcessStarted or StartFailed."""

    replica_id: str
    slot: int
    deployment: DeploymentSpec


class InitializeReplica(Struct, frozen=True):
    """Dial the replica and construct the user's object, or find that it is already constructed with this version.

    Outcome: ReplicaInitialized or InitializeFailed, or ProcessExited.
    """

    replica_id: str
    address: str
    application: ApplicationSpec
    deployment: DeploymentSpec


class DrainReplica(Struct, frozen=True):
    """Ask it to finish what it runs and exit. Outcome: ProcessExited."""

    replica_id: str
    address: str


class KillReplica(Struct, frozen=True):
    """SIGKILL it and its children. Outcome: ProcessExited."""

    replica_id: str


class Publish(Struct, frozen=True):
    """Push this routing table to every subscriber."""

    snapshot: Snapshot


class SaveTarget(Struct, frozen=True):
    """Make the target durable before anything that follows from it happens."""

    target: tuple[ApplicationSpec, ...]


Command = StartReplica | InitializeReplica | DrainReplica | KillReplica | Publish | SaveTarget
