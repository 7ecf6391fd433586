"""An engine that does all that a real one may: late, lost, repeated and reordered answers, crashes, hangs.

What it may not do, because no engine of ours does: run the commands for one replica out of order, or lose the
exit of a process which the control core takes for running (exits come from the kernel, and a new connection
lists anew).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from salver.control.events import (
    Command,
    DrainReplica,
    Event,
    FoundProcess,
    InitializeFailed,
    InitializeReplica,
    KillReplica,
    ProcessExited,
    ProcessStarted,
    ReconfigureReplica,
    ReplicaInitialized,
    ReplicaReconfigured,
    StartFailed,
    StartReplica,
)
from salver.control.placement import Unplaceable, place
from salver.records import Capacity, DeploymentId, GpuShares, Resources

BROKEN_VERSION = "broken"
"""The constructor of this version always raises."""

REFUSED_CONFIG = "refused"
"""A ``user_config`` with which ``reconfigure`` always raises."""


@dataclass
class Process:
    """A process of a replica, as the operating system has it."""

    replica_id: str
    deployment: DeploymentId
    version: str
    slot: int
    pid: int
    gpus: GpuShares
    resources: Resources
    rank: int = -1
    user_config: Any = None
    constructed: bool = False
    draining: bool = False

    @property
    def address(self) -> str:
        return f"unix:/run/{self.pid}"


class HostileEngine:
    """Executes commands when told to, fairly or not; answers wait in ``answers`` until somebody delivers them."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.commands: list[Command] = []
        self.answers: list[Event] = []
        self.processes: dict[str, Process] = {}
        self._pids = itertools.count(1)

    def submit(self, command: Command) -> None:
        self.commands.append(command)

    def waiting(self) -> list[str]:
        """Replicas that have a command to be executed."""
        return sorted({replica_of(command) for command in self.commands})

    def execute(self, replica_id: str, fault: str = "") -> None:
        """Execute the oldest command for the replica; ``fault`` is one of ``lose``, ``fail``, or empty."""
        command = next(command for command in self.commands if replica_of(command) == replica_id)
        self.commands.remove(command)
        if fault == "lose":
            return
        match command:
            case StartReplica():
                self._start(command, fails=fault == "fail")
            case InitializeReplica():
                self._initialize(command, fails=fault == "fail")
            case ReconfigureReplica():
                self._reconfigure(command)
            case DrainReplica():
                if replica_id in self.processes:
                    self.processes[replica_id].draining = True
            case KillReplica():
                self.end(replica_id, "killed by SIGKILL")
            case _:
                raise AssertionError(f"no command for an engine: {command}")

    def end(self, replica_id: str, cause: str) -> None:
        """The process ends, or is found not to exist; the exit is reported either way."""
        self.processes.pop(replica_id, None)
        self.answers.append(ProcessExited(replica_id, cause))

    def list_processes(self) -> tuple[FoundProcess, ...]:
        return tuple(
            FoundProcess(p.replica_id, p.deployment, p.version, p.slot, p.pid, p.address, p.gpus, p.resources)
            for p in self.processes.values()
        )

    def lose_connection(self) -> None:
        """The controller is gone: what was under way to and from it is lost, the processes live on."""
        self.commands.clear()
        self.answers.clear()

    def droppable(self, routed: set[str]) -> list[Event]:
        """Answers whose loss must heal: all but exits of replicas that are, or soon will be, taken for running."""
        initialized = {a.replica_id for a in self.answers if isinstance(a, ReplicaInitialized)}
        needed = initialized | routed
        return [a for a in self.answers if not (isinstance(a, ProcessExited) and a.replica_id in needed)]

    def _start(self, command: StartReplica, *, fails: bool) -> None:
        replica_id, slot, deployment = command.replica_id, command.slot, command.deployment
        if fails:
            self.answers.append(StartFailed(replica_id, "no memory"))
            return
        owners = [process.replica_id for process in self.processes.values() if process.slot == slot]
        assert not owners, f"{replica_id} started in slot {slot}, which {owners} have"
        assert replica_id not in self.processes, f"{replica_id} started twice"
        self._check_room(command)
        pid = next(self._pids)
        process = Process(
            replica_id, deployment.id, deployment.version, slot, pid, command.gpus, deployment.resources
        )
        self.processes[replica_id] = process
        self.answers.append(ProcessStarted(replica_id, process.pid, process.address))

    def _check_room(self, command: StartReplica) -> None:
        taken = [(process.resources, process.gpus) for process in self.processes.values()]
        found = place(self.capacity, taken, command.deployment.resources)
        assert not isinstance(found, Unplaceable), f"{command.replica_id} started without room: {found.reason}"
        held: dict[int, float] = {}
        for shares in (*(process.gpus for process in self.processes.values()), command.gpus):
            for gpu, share in shares:
                held[gpu] = held.get(gpu, 0) + share
        assert all(share <= 1.0 + 1e-6 for share in held.values()), f"{command.replica_id} shares too much: {held}"

    def _initialize(self, command: InitializeReplica, *, fails: bool) -> None:
        replica_id, deployment = command.replica_id, command.deployment
        process = self.processes.get(replica_id)
        if process is None:
            self.answers.append(InitializeFailed(replica_id, "connection refused"))
            return
        assert process.version == deployment.version, f"{replica_id}: {process.version}, not {deployment.version}"
        broken = fails or deployment.version == BROKEN_VERSION or not deployment.definition
        if (broken or deployment.user_config == REFUSED_CONFIG) and not process.constructed:
            self.answers.append(InitializeFailed(replica_id, "Traceback:\nValueError"))
            return
        if not process.constructed:
            process.rank, process.user_config = command.rank, deployment.user_config
        process.constructed = True
        self.answers.append(ReplicaInitialized(replica_id, rank=process.rank))

    def _reconfigure(self, command: ReconfigureReplica) -> None:
        process = self.processes.get(command.replica_id)
        if process is None:
            self.answers.append(ReplicaReconfigured(command.replica_id, command.number, "the connection broke"))
            return
        assert process.constructed, f"{command.replica_id} is told settings before it is constructed"
        assert process.version == command.deployment.version, f"{command.replica_id} is told another version's"
        if command.deployment.user_config == REFUSED_CONFIG:
            self.answers.append(
                ReplicaReconfigured(command.replica_id, command.number, "Traceback:\nKeyError: 'refused'")
            )
            return
        process.rank, process.user_config = command.rank, command.deployment.user_config
        self.answers.append(ReplicaReconfigured(command.replica_id, command.number))


def replica_of(command: Command) -> str:
    assert isinstance(command, StartReplica | InitializeReplica | ReconfigureReplica | DrainReplica | KillReplica)
    return command.replica_id
