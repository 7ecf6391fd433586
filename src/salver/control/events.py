"""What the control core is told and what it asks for. Records only.

A command's outcome comes back as an event, success or failure; a command that is lost is asked again when the
replica's deadline passes, so every command must be idempotent.
"""

from __future__ import annotations

from msgspec import Struct

from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec, GpuShares, Resources, Target
from salver.views import EndedReplica, Happening
from salver.wire.snapshot import Snapshot

# --- events ---------------------------------------------------------------------------------------------


class DeployApplication(Struct, frozen=True):
    """The user wants this application, in place of the one of the same name if there is one."""

    spec: ApplicationSpec


class DeleteApplication(Struct, frozen=True):
    """The user wants this application gone; unknown names are fine."""

    name: str


class RollBack(Struct, frozen=True):
    """The user wants the last good version of this application again; nothing happens when there is none."""

    name: str


class ScaleDeployment(Struct, frozen=True):
    """Somebody outside has decided on a number of replicas; it stays until the next one, or the next deploy."""

    deployment: DeploymentId
    num_replicas: int


class SetCapacity(Struct, frozen=True):
    """How much of every number of replicas is wanted, 0 to 100 percent; None is all."""

    percent: float | None


class FoundProcess(Struct, frozen=True):
    """A replica process that was already running when this controller started; for how long, ``age_s`` says."""

    replica_id: str
    deployment: DeploymentId
    version: str
    slot: int
    pid: int
    address: str
    gpus: GpuShares = ()
    resources: Resources = Resources()
    age_s: float = 0.0


class Recover(Struct, frozen=True):
    """The first event of a controller that was restarted: the saved target and the processes that run.

    Attributes:
        ended: replicas whose end the last controller has seen, oldest first.
    """

    target: Target
    processes: tuple[FoundProcess, ...]
    ended: tuple[EndedReplica, ...] = ()


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
        rank: the number that it has; -1 for none.
    """

    replica_id: str
    docs_path: str = ""
    rank: int = -1


class InitializeFailed(Struct, frozen=True):
    """User code raised before the replica was ready, or the replica could not be reached.

    Attributes:
        error: the user's traceback.
        step: what raised, in words: the constructor, or what is called after it.
    """

    replica_id: str
    error: str
    step: str = "constructor"


class ReplicaReconfigured(Struct, frozen=True):
    """ReconfigureReplica came to an end.

    Attributes:
        number: of the command.
        error: the user's traceback, empty when it worked.
    """

    replica_id: str
    number: int
    error: str = ""


class HealthChecked(Struct, frozen=True):
    """A ``check_health`` of the user's came to an end; ``error`` says how it failed, empty when it did not."""

    replica_id: str
    error: str = ""


class ReplicaSilent(Struct, frozen=True):
    """The replica takes no requests for now, although its process lives: hung, stopped, or its loop is blocked.

    Attributes:
        reason: for people.
        hung: not even its control thread answers, so it is killed unless it comes back soon.
    """

    replica_id: str
    reason: str
    hung: bool


class ReplicaResponsive(Struct, frozen=True):
    """A replica that was silent is back."""

    replica_id: str


class ReplicaWorn(Struct, frozen=True):
    """The replica works, and is to be replaced without losing a request; ``reason`` is for people."""

    replica_id: str
    reason: str


class Load(Struct, frozen=True):
    """Requests of one deployment: that wait in callers, and that replicas run."""

    queued: float
    running: float


class LoadSampled(Struct, frozen=True):
    """How busy every autoscaled deployment is, by ``app#deployment``."""

    loads: dict[str, Load]


class PolicyDecided(Struct, frozen=True):
    """A policy of the user's has been asked.

    Attributes:
        replicas: how many it wants, by ``app#deployment``; those that it says nothing about stay as they are.
        error: why it could not decide; empty when it could.
        deployments: for whom it was asked.
    """

    deployments: tuple[str, ...]
    replicas: dict[str, int]
    error: str = ""


class ProcessExited(Struct, frozen=True):
    """The process is gone.

    Attributes:
        cause: for people: ``killed by SIGKILL``, ``exited with code 1``.
        exit_code: as ``subprocess`` has it: a signal as a negative number; None when it is not known.
    """

    replica_id: str
    cause: str
    exit_code: int | None = None


class Tick(Struct, frozen=True):
    """Time passed; sent when ``next_deadline()`` is due."""


ReplicaEvent = (
    ProcessStarted
    | StartFailed
    | ReplicaInitialized
    | InitializeFailed
    | ReplicaReconfigured
    | HealthChecked
    | ReplicaSilent
    | ReplicaResponsive
    | ReplicaWorn
    | ProcessExited
)
"""What concerns one replica."""

Event = (
    Recover
    | DeployApplication
    | DeleteApplication
    | RollBack
    | ScaleDeployment
    | SetCapacity
    | LoadSampled
    | PolicyDecided
    | Tick
    | ReplicaEvent
)

# --- commands -------------------------------------------------------------------------------------------


class StartReplica(Struct, frozen=True):
    """Start a process for this replica. Outcome: ProcessStarted or StartFailed."""

    replica_id: str
    slot: int
    deployment: DeploymentSpec
    gpus: GpuShares = ()


class InitializeReplica(Struct, frozen=True):
    """Dial the replica and construct the user's object, or find that it is already constructed with this version.

    Outcome: ReplicaInitialized or InitializeFailed, or ProcessExited.
    """

    replica_id: str
    address: str
    application: ApplicationSpec
    deployment: DeploymentSpec
    rank: int = -1


class ReconfigureReplica(Struct, frozen=True):
    """Tell a replica its new settings. Outcome: ReplicaReconfigured, with the same number."""

    replica_id: str
    address: str
    number: int
    deployment: DeploymentSpec
    rank: int = -1


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

    target: Target


class Note(Struct, frozen=True):
    """Something that operators want to know of later."""

    happening: Happening


class RememberEnd(Struct, frozen=True):
    """Keep what is known of a replica that has ended for the next controller."""

    ended: EndedReplica


Command = (
    StartReplica
    | InitializeReplica
    | ReconfigureReplica
    | DrainReplica
    | KillReplica
    | Publish
    | SaveTarget
    | Note
    | RememberEnd
)
