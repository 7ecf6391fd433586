"""Replicas that are blocked, hung or worn; what there is no room for."""

from __future__ import annotations

from scene import Scene, application_spec, deployment_spec, drains, kills, starts

from salver.control.events import (
    DeployApplication,
    InitializeReplica,
    ReplicaInitialized,
    ReplicaResponsive,
    ReplicaSilent,
    ReplicaWorn,
    SetCapacity,
)
from salver.control.replica import SILENT_AFTER_S
from salver.records import Capacity, Resources


def ids(*numbers: int) -> list[str]:
    return [f"shop#model#r{number}" for number in numbers]


def scene_with(number: int, capacity: Capacity | None = None, **options: object) -> Scene:
    scene = Scene() if capacity is None else Scene(capacity=capacity)
    scene.deploy(deployment_spec(num_replicas=number, **options))
    scene.running(*ids(*range(number)))
    return scene


# --- silence --------------------------------------------------------------------------------------------


def test_a_blocked_replica_gets_nothing_while_others_are_there_and_is_never_killed() -> None:
    scene = scene_with(2)
    assert starts(scene.send(ReplicaSilent(ids(0)[0], "its event loop is blocked (at app.py:3)", hung=False))) == []
    assert scene.routed() == tuple(ids(1))
    assert scene.deployment().replicas[0].reason == "its event loop is blocked (at app.py:3)"
    assert scene.view().status == "RUNNING"
    assert kills(scene.wait(3600)) == []

    scene.send(ReplicaSilent(ids(1)[0], "blocked, too", hung=False))
    assert scene.routed() == tuple(ids(0, 1)), "there is nowhere else to go"
    scene.send(ReplicaResponsive(ids(0)[0]))
    assert scene.routed() == tuple(ids(0))
    assert scene.deployment().replicas[0].reason == ""


def test_a_hung_replica_gets_nothing_and_is_killed_in_the_end() -> None:
    scene = scene_with(1)
    scene.send(ReplicaSilent(ids(0)[0], "no sign of life", hung=True))
    assert scene.routed() == ()
    assert kills(scene.wait(30 - SILENT_AFTER_S - 1)) == []
    commands = scene.wait(1)
    assert (kills(commands), starts(commands)) == (ids(0), ids(1))
    assert "was silent for 30 s and is killed" in scene.deployment().message


def test_a_hung_replica_that_comes_back_is_asked_what_it_is() -> None:
    scene = scene_with(1)
    scene.send(ReplicaSilent(ids(0)[0], "no sign of life", hung=True))
    commands = scene.send(ReplicaResponsive(ids(0)[0]))
    assert [c.replica_id for c in commands if isinstance(c, InitializeReplica)] == ids(0)
    assert scene.routed() == tuple(ids(0))
    scene.send(ReplicaInitialized(ids(0)[0], rank=0))
    scene.reconfigured(ids(0)[0])
    assert scene.view().status == "RUNNING"
    assert kills(scene.wait(3600)) == []


def test_a_constructor_may_be_silent_for_as_long_as_it_may_take() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.started(*ids(0))
    scene.send(ReplicaSilent(ids(0)[0], "no sign of life", hung=True))
    assert kills(scene.wait(59)) == []
    assert kills(scene.wait(1)) == ids(0)


def test_a_hung_replica_of_a_deleted_application_is_given_its_time() -> None:
    scene = scene_with(1)
    scene.send(ReplicaSilent(ids(0)[0], "no sign of life", hung=True))
    assert drains(scene.delete()) == ids(0)
    assert kills(scene.wait(21)) == ids(0)


# --- worn replicas --------------------------------------------------------------------------------------


def test_worn_replicas_are_replaced_one_at_a_time_and_capacity_is_kept() -> None:
    scene = scene_with(3)
    assert starts(scene.send(ReplicaWorn(ids(0)[0], "it has served 1,000 requests"))) == ids(3)
    assert starts(scene.send(ReplicaWorn(ids(1)[0], "its memory has grown to 2 GiB"))) == []
    assert drains(scene.running(*ids(3))) == ids(0)
    assert starts(scene.exited(*ids(0), cause="exited with code 0")) == ids(4)
    assert drains(scene.running(*ids(4))) == ids(1)
    assert scene.view().status == "RUNNING"
    assert [note.kind for note in scene.notes].count("recycle") == 2


# --- room -----------------------------------------------------------------------------------------------


def test_what_has_no_room_waits_and_says_for_what_and_the_rest_serves() -> None:
    scene = Scene(capacity=Capacity(num_cpus=2))
    scene.deploy(deployment_spec("model"), deployment_spec("big", resources=Resources(num_gpus=1)))
    scene.running(*ids(0))
    assert scene.routed() == tuple(ids(0))
    view = scene.view()
    assert (view.status, view.message) == ("DEPLOYING", "waiting for room: needs 1 GPU, this machine has 0")


def test_room_that_becomes_free_is_used() -> None:
    scene = Scene(capacity=Capacity(num_cpus=1))
    scene.deploy(deployment_spec(num_replicas=2, resources=Resources(num_cpus=1)))
    scene.running(*ids(0))
    assert scene.deployment().message == "waiting for room: needs 1 CPU, 0 of 1 are free"
    assert starts(scene.exited(*ids(0))) == ids(1)


def test_max_replicas_per_node() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=3, max_replicas_per_node=2))
    scene.running(*ids(0, 1))
    assert scene.deployment().message == "waiting for room: max_replicas_per_node=2, and there is one machine"


def test_an_update_without_room_for_both_stops_the_old_one_first() -> None:
    """And when the new one fails, the old one has its room again."""
    gpu = Capacity(gpus=(0,))
    scene = scene_with(1, gpu, resources=Resources(num_gpus=1), max_constructor_failures=1)
    commands = scene.deploy(
        deployment_spec(version="v2", resources=Resources(num_gpus=1), max_constructor_failures=1)
    )
    assert (starts(commands), drains(commands)) == ([], ids(0))
    assert starts(scene.exited(*ids(0), cause="exited with code 0")) == ids(1)
    assert starts(scene.exited(*ids(1), cause="exited with code 1")) == []
    assert starts(scene.wait(60)) == ids(2)
    scene.running(*ids(2))
    assert scene.view().status == "DEPLOY_FAILED"
    assert [replica.version for replica in scene.deployment().replicas] == ["v1"]


def test_an_update_that_can_never_have_room_stops_nothing() -> None:
    scene = scene_with(2, Capacity(num_cpus=4))
    commands = scene.deploy(deployment_spec(version="v2", num_replicas=2, resources=Resources(num_gpus=1)))
    assert (starts(commands), drains(commands)) == ([], [])
    scene.wait(60)
    assert scene.routed() == tuple(ids(0, 1))
    assert scene.view().message == "waiting for room: needs 1 GPU, this machine has 0"


def test_an_update_goes_in_steps() -> None:
    scene = scene_with(5)
    commands = scene.deploy(deployment_spec(version="v2", num_replicas=5, rolling_update_fraction=0.4))
    assert starts(commands) == ids(5, 6)
    commands = scene.running(*ids(5))
    assert (drains(commands), starts(commands)) == (ids(4), ids(7))


def test_a_share_of_the_capacity() -> None:
    scene = scene_with(4)
    assert len(drains(scene.send(SetCapacity(50.0)))) == 2
    assert scene.deployment().target_num_replicas == 2
    assert len(drains(scene.send(SetCapacity(1.0)))) == 1
    scene.send(SetCapacity(0.0))
    assert scene.deployment().target_num_replicas == 0
    assert scene.cluster.target().capacity_percent == 0.0
    scene.send(SetCapacity(None))
    assert scene.deployment().target_num_replicas == 4


def test_gpus_are_not_given_twice() -> None:
    scene = Scene(capacity=Capacity(gpus=(0, 1)))
    half = deployment_spec(num_replicas=4, resources=Resources(num_gpus=0.5))
    scene.send(DeployApplication(application_spec(half)))
    scene.running(*ids(0, 1, 2, 3))
    assert [replica.gpus for replica in scene.deployment().replicas] == [(0,), (0,), (1,), (1,)]
