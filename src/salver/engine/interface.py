"""What the controller needs of an engine: start a replica's process, kill it, hear of its end, find what runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from salver.records import Capacity, DeploymentId, GpuShares, LoggingSpec, Resources


class ReplicaProcess(Struct, frozen=True):
    """A replica's process, wanted or running.

    Attributes:
        replica_id: ``app#deployment#suffix``, unique for the life of the instance.
        deployment, version: what it serves; only the controller cares.
        slot: its place on the load board.
        pid, address: known once it runs; the address can be dialled from then on.
        resources, gpus: what it has reserved, and got for that; it sees no other GPUs.
        logging: how it logs, None for as the instance.
        age_s: since when it runs, at the moment when it is told of; of no use later.
    """

    replica_id: str
    deployment: DeploymentId
    version: str
    slot: int
    pid: int = 0
    address: str = ""
    resources: Resources = Resources()
    gpus: GpuShares = ()
    logging: LoggingSpec | None = None
    age_s: float = 0.0


class Started(Struct, frozen=True, tag=True):
    """``start`` worked, or the process was running already."""

    process: ReplicaProcess


class NotStarted(Struct, frozen=True, tag=True):
    """``start`` failed; there is no process."""

    replica_id: str
    reason: str


class Exited(Struct, frozen=True, tag=True):
    """The process is gone, by our doing or not.

    Attributes:
        cause: for people: ``killed by SIGKILL``, ``exited with code 1``.
        stack: where native code crashed, as a Python traceback; empty when it did not.
        exit_code: as ``subprocess`` has it: a signal as a negative number; None when it is not known.
    """

    replica_id: str
    cause: str
    stack: str = ""
    exit_code: int | None = None


class Restarted(Struct, frozen=True, tag=True):
    """A process that is no replica has ended by itself, and runs again.

    Attributes:
        role: ``controller``: the one before this; or ``proxy``.
        cause: of its last end, for people: ``was killed by SIGKILL``.
        times: how often it has ended since a controller was last told.
    """

    role: str
    cause: str
    times: int = 1


EngineEvent = Started | NotStarted | Exited | Restarted


class Engine(Protocol):
    """Places and supervises processes. Every method is idempotent; outcomes arrive as events."""

    def open(self, on_event: Callable[[EngineEvent], None]) -> None:
        """Begin to deliver events, on the running loop. Called once, before anything else."""
        ...

    async def processes(self) -> list[ReplicaProcess]:
        """Every replica process that runs now."""
        ...

    def capacity(self) -> Capacity:
        """What there is for replicas to reserve, over all of its machines."""
        ...

    async def proxy_pids(self) -> list[int]:
        """The processes of the HTTP ingress."""
        ...

    def start(self, process: ReplicaProcess) -> None:
        """Start it. Outcome: Started or NotStarted."""
        ...

    def kill(self, replica_id: str) -> None:
        """End it and its children at once. Outcome: Exited; unknown ids are fine and give Exited too."""
        ...

    async def where(self, replica_id: str) -> str:
        """Where its main thread is now, as a Python traceback; empty when it cannot be told."""
        ...

    async def close(self) -> None:
        """Stop delivering events. Processes of a supervisor outlive this; processes of the memory engine do not."""
        ...
