"""A cluster with a clock and predictable names, for tests that tell a story event by event."""

from __future__ import annotations

import itertools
from typing import Any

from salver.control.cluster import Cluster
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    DrainReplica,
    Event,
    InitializeReplica,
    KillReplica,
    Note,
    ProcessExited,
    ProcessStarted,
    Publish,
    ReconfigureReplica,
    Recover,
    RememberEnd,
    ReplicaInitialized,
    ReplicaReconfigured,
    StartReplica,
    Tick,
)
from salver.records import ApplicationSpec, Capacity, DeploymentId, DeploymentSpec, Target
from salver.views import ApplicationView, DeploymentView, Happening

WALL_CLOCK_OFFSET = 1_000_000.0
MACHINE = Capacity(num_cpus=4, gpus=(0, 1), memory=2**34)


def deployment_spec(
    name: str = "model",
    version: str = "v1",
    num_replicas: int = 1,
    app: str = "shop",
    startup_timeout_s: float = 60.0,
    graceful_shutdown_timeout_s: float = 20.0,
    max_constructor_failures: int = 3,
    max_queued_requests: int = -1,
    **others: Any,
) -> DeploymentSpec:
    return DeploymentSpec(
        id=DeploymentId(app, name),
        version=version,
        definition=version.encode(),
        num_replicas=num_replicas,
        max_queued_requests=max_queued_requests,
        startup_timeout_s=startup_timeout_s,
        graceful_shutdown_timeout_s=graceful_shutdown_timeout_s,
        max_constructor_failures=max_constructor_failures,
        **{"rolling_update_fraction": 1.0, **others},
    )


def application_spec(
    *deployments: DeploymentSpec, route_prefix: str | None = "/", ingress: str | None = None
) -> ApplicationSpec:
    """An application of these deployments; the first is the ingress unless said otherwise."""
    first = deployments[0]
    return ApplicationSpec(
        name=first.id.app,
        route_prefix=route_prefix,
        ingress=ingress or first.id.name,
        deployments=deployments,
    )


class Scene:
    """Replicas are named r0, r1, … in the order of their starts; jitter is at its most."""

    def __init__(self, *, recover: Recover | None = None, now: float = 100.0, capacity: Capacity = MACHINE) -> None:
        self.now = now
        numbers = itertools.count()
        self.cluster = Cluster(
            epoch=7,
            new_suffix=lambda: f"r{next(numbers)}",
            jitter=lambda: 1.0,
            wall_clock_offset=lambda: WALL_CLOCK_OFFSET,
            capacity=capacity,
        )
        self.notes: list[Happening] = []
        self.told: dict[str, int] = {}
        self.first_commands = self.send(recover or Recover(target=Target(), processes=()))

    def send(self, event: Event) -> list[Command]:
        """What the cluster says, but for its notes, which are in ``notes``, and the ends to be remembered."""
        commands = self.cluster.handle(event, self.now)
        self.cluster.validate()
        self.notes += [command.happening for command in commands if isinstance(command, Note)]
        self.told |= {
            command.replica_id: command.number for command in commands if isinstance(command, ReconfigureReplica)
        }
        return [command for command in commands if not isinstance(command, Note | RememberEnd)]

    def wait(self, seconds: float) -> list[Command]:
        """Let time pass and tick at each deadline on the way, as the shell does."""
        end = self.now + seconds
        commands: list[Command] = []
        while (deadline := self.cluster.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            commands += self.send(Tick())
        self.now = end
        return commands

    def wait_for_deadline(self) -> list[Command]:
        """Let time pass until the cluster wants to be woken."""
        deadline = self.cluster.next_deadline()
        assert deadline is not None
        self.now = deadline
        return self.send(Tick())

    def deploy(self, *deployments: DeploymentSpec, **application: str | None) -> list[Command]:
        return self.send(DeployApplication(application_spec(*deployments, **application)))

    def delete(self, name: str = "shop") -> list[Command]:
        return self.send(DeleteApplication(name))

    def started(self, *replica_ids: str) -> list[Command]:
        commands: list[Command] = []
        for replica_id in replica_ids:
            commands += self.send(ProcessStarted(replica_id, pid=pid_of(replica_id), address=address_of(replica_id)))
        return commands

    def running(self, *replica_ids: str) -> list[Command]:
        """Take each all the way up; the commands of its last step are returned."""
        commands: list[Command] = []
        for replica_id in replica_ids:
            self.started(replica_id)
            commands += self.send(ReplicaInitialized(replica_id))
        return commands

    def reconfigured(self, replica_id: str, error: str = "") -> list[Command]:
        """The answer to what it was told last."""
        return self.send(ReplicaReconfigured(replica_id, self.told[replica_id], error))

    def exited(self, *replica_ids: str, cause: str = "killed by SIGKILL") -> list[Command]:
        commands: list[Command] = []
        for replica_id in replica_ids:
            commands += self.send(ProcessExited(replica_id, cause))
        return commands

    def view(self, name: str = "shop") -> ApplicationView:
        return {view.name: view for view in self.cluster.views(self.now)}[name]

    def deployment(self, name: str = "model", app: str = "shop") -> DeploymentView:
        return {view.name: view for view in self.view(app).deployments}[name]

    def routed(self, key: str = "shop#model") -> tuple[str, ...]:
        """Ids of the replicas in the snapshot."""
        routes = {route.key: route for route in self.cluster.snapshot().deployments}
        return tuple(replica.replica_id for replica in routes[key].replicas)


def address_of(replica_id: str) -> str:
    return f"unix:/run/{replica_id}"


def pid_of(replica_id: str) -> int:
    return 1000 + int(replica_id.rpartition("#r")[2])


def starts(commands: list[Command]) -> list[str]:
    return [command.replica_id for command in commands if isinstance(command, StartReplica)]


def initializes(commands: list[Command]) -> list[str]:
    return [command.replica_id for command in commands if isinstance(command, InitializeReplica)]


def drains(commands: list[Command]) -> list[str]:
    return [command.replica_id for command in commands if isinstance(command, DrainReplica)]


def kills(commands: list[Command]) -> list[str]:
    return [command.replica_id for command in commands if isinstance(command, KillReplica)]


def published(commands: list[Command]) -> list[Publish]:
    return [command for command in commands if isinstance(command, Publish)]
