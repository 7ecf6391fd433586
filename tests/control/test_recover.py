"""A controller that was restarted: what runs goes on, what belongs to nothing ends."""

from __future__ import annotations

from msgspec.structs import replace
from scene import (
    WALL_CLOCK_OFFSET,
    Scene,
    address_of,
    application_spec,
    deployment_spec,
    drains,
    kills,
    pid_of,
    starts,
)

from salver.control.events import (
    FoundProcess,
    InitializeFailed,
    InitializeReplica,
    KillReplica,
    Publish,
    ReconfigureReplica,
    Recover,
    ReplicaInitialized,
    ReplicaReconfigured,
    SaveTarget,
    StartReplica,
)
from salver.records import DeploymentId, Target
from salver.wire.snapshot import ApplicationRoute, DeploymentRoute, ReplicaRoute, Snapshot

R0 = "shop#model#r0"
X5 = "shop#model#r5"
X6 = "shop#model#r6"


def found(replica_id: str, version: str = "v1", slot: int = 0) -> FoundProcess:
    app, name, _ = replica_id.split("#")
    return FoundProcess(
        replica_id, DeploymentId(app, name), version, slot, pid_of(replica_id), address_of(replica_id)
    )


def recovered(*processes: FoundProcess, num_replicas: int = 1, version: str = "v1", max_failures: int = 3) -> Scene:
    spec = deployment_spec(version=version, num_replicas=num_replicas, max_constructor_failures=max_failures)
    return Scene(recover=Recover(Target((application_spec(spec),)), processes))


def test_what_runs_is_adopted_and_routed_to_at_once() -> None:
    spec = deployment_spec()
    app = application_spec(spec)
    scene = Scene(recover=Recover(Target((app,), deployed_at_s={"shop": 12.5}), (found(X5, slot=4),)))

    route = DeploymentRoute("shop#model", (ReplicaRoute(X5, address_of(X5), 4),), 5, -1)
    assert scene.first_commands == [
        InitializeReplica(X5, address_of(X5), app, spec),
        Publish(Snapshot(7, 1, (ApplicationRoute("shop", "/", "model"),), (route,))),
    ]
    assert scene.view().last_deployed_time_s == 12.5, "who waits for that deploy knows it by its time"
    assert scene.deployment().replica_states == {"RECOVERING": 1}
    assert scene.deployment().replicas[0].pid == pid_of(X5)

    told = ReconfigureReplica(X5, address_of(X5), 1, replace(spec, definition=b""), 0)
    assert scene.send(ReplicaInitialized(X5)) == [told], "what it was told by the controller before is not known"
    saved = Target((app,), proven=("shop",), deployed_at_s={"shop": 12.5})
    assert scene.send(ReplicaReconfigured(X5, 1)) == [SaveTarget(saved)]
    assert scene.view().status == "RUNNING"


def test_that_it_runs_as_it_was_deployed_is_said_once_whoever_is_the_controller() -> None:
    first = Scene()
    first.deploy(deployment_spec())
    first.running(R0)
    assert [note.message for note in first.notes] == ["deployed, 1 deployment at /", "runs as it was deployed"]

    second = Scene(recover=Recover(first.cluster.target(), (found(R0),)))
    second.send(ReplicaInitialized(R0, rank=0))
    second.reconfigured(R0)
    assert second.deployment().status == "HEALTHY"
    assert second.notes == [], "nothing was deployed"

    second.deploy(deployment_spec(version="v2"))
    third = Scene(recover=Recover(second.cluster.target(), (found(R0),)))
    third.send(ReplicaInitialized(R0, rank=0))
    assert third.notes == []
    (new,) = {view.replica_id for view in third.deployment().replicas} - {R0}
    third.running(new)
    assert [note.message for note in third.notes] == ["runs as it was deployed"], "the second had not seen that"


def test_a_replica_is_as_old_as_its_process_whoever_is_the_controller() -> None:
    target = Target((application_spec(deployment_spec()),))
    process = replace(found(R0), age_s=3600.0)
    scene = Scene(recover=Recover(target, (process,)))
    scene.now += 5.0
    (replica,) = scene.deployment().replicas
    assert replica.age_s == 3605.0
    assert replica.start_time_s == WALL_CLOCK_OFFSET + scene.now - 3605.0


def test_what_was_decided_before_does_not_outlive_a_deletion() -> None:
    """The application is still there, on its way out, when it is deployed again."""
    spec = deployment_spec(num_replicas=1)
    scene = Scene(recover=Recover(Target((application_spec(spec),), replicas={"shop#model": 2}), (found(X5),)))
    assert scene.deployment().target_num_replicas == 2
    scene.delete()

    scene.deploy(spec)

    assert scene.deployment().target_num_replicas == 1
    assert scene.cluster.target().replicas == {}


def test_what_is_missing_is_started_in_a_free_slot() -> None:
    scene = recovered(found(X5, slot=0), num_replicas=2)
    spec = deployment_spec(num_replicas=2)
    assert [c for c in scene.first_commands if isinstance(c, StartReplica)] == [StartReplica(R0, 1, spec)]


def test_what_belongs_to_nothing_is_killed_and_keeps_its_slot_until_gone() -> None:
    stray = "gone#model#r9"
    scene = recovered(found(stray, slot=0))
    assert kills(scene.first_commands) == [stray]
    assert [c.slot for c in scene.first_commands if isinstance(c, StartReplica)] == [1]

    assert scene.wait(5) == [KillReplica(stray)]
    assert scene.exited(stray) == []


def test_a_deployment_that_left_the_application_belongs_to_nothing() -> None:
    assert kills(recovered(found("shop#old#r9")).first_commands) == ["shop#old#r9"]


def test_an_update_goes_on_where_it_was() -> None:
    scene = recovered(found(X5, "v1", 0), found(X6, "v2", 1), num_replicas=2, version="v2")
    assert starts(scene.first_commands) == [R0]
    old = next(c for c in scene.first_commands if isinstance(c, InitializeReplica) and c.replica_id == X5).deployment
    assert (old.version, old.definition) == ("v1", b"")
    assert scene.routed() == (X5, X6)

    scene.send(ReplicaInitialized(X5))
    scene.send(ReplicaInitialized(X6))
    assert scene.routed() == (X5, X6)
    assert drains(scene.running(R0)) == [X5]


def test_an_adopted_replica_that_cannot_initialize_is_killed_and_replaced() -> None:
    scene = recovered(found(X5), max_failures=1)

    commands = scene.send(InitializeFailed(X5, "connection refused"))

    assert kills(commands) == [X5]
    assert starts(commands) == [R0]
    view = scene.deployment()
    assert view.status == "UPDATING"
    assert view.message == (
        f"replica {X5} could not be taken over after the controller restarted (connection refused); "
        "a new one is starting"
    )


def test_an_adopted_replica_that_does_not_answer_is_killed_and_replaced() -> None:
    scene = recovered(found(X5))

    commands = scene.wait(60)

    assert kills(commands) == [X5]
    assert starts(commands) == [R0]
    assert "did not answer within 60 s after the controller restarted" in scene.deployment().message


def test_a_version_is_not_given_up_while_an_adopted_replica_of_it_may_run() -> None:
    scene = recovered(found(X5), num_replicas=2, max_failures=1)
    scene.started(R0)
    scene.send(InitializeFailed(R0, "MemoryError"))
    assert scene.deployment().status == "UPDATING"

    scene.send(ReplicaInitialized(X5))
    scene.exited(R0)
    assert starts(scene.wait(1)) == ["shop#model#r1"]


def test_an_adopted_replica_is_drained_not_killed_when_deleted() -> None:
    scene = recovered(found(X5))
    commands = scene.delete()
    assert drains(commands) == [X5]
    assert kills(commands) == []


def test_more_replicas_than_wanted_are_drained() -> None:
    scene = recovered(found(X5, slot=0), found(X6, slot=1))
    assert drains(scene.first_commands) == [X6]
    assert scene.routed() == (X5,)
