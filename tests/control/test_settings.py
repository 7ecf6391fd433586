"""New settings for running replicas: told without a restart, and taken back when they are refused; ranks."""

from __future__ import annotations

from scene import Scene, application_spec, deployment_spec, drains, kills, starts

from salver.control.events import (
    Command,
    HealthChecked,
    ReconfigureReplica,
    ReplicaInitialized,
    RollBack,
    SaveTarget,
    ScaleDeployment,
)
from salver.records import DeploymentId


def ids(*numbers: int) -> list[str]:
    return [f"shop#model#r{number}" for number in numbers]


def told(commands: list[Command]) -> list[tuple[str, object, int]]:
    return [(c.replica_id, c.deployment.user_config, c.rank) for c in commands if isinstance(c, ReconfigureReplica)]


def scene_with(number: int, **options: object) -> Scene:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=number, **options))
    scene.running(*ids(*range(number)))
    return scene


def test_a_new_user_config_is_told_and_restarts_nothing() -> None:
    scene = scene_with(2, user_config={"k": 1})
    commands = scene.deploy(deployment_spec(num_replicas=2, user_config={"k": 2}))
    assert told(commands) == [(ids(0)[0], {"k": 2}, 0), (ids(1)[0], {"k": 2}, 1)]
    assert (starts(commands), drains(commands)) == ([], [])
    assert scene.routed() == tuple(ids(0, 1)), "they go on serving"
    assert scene.deployment().replica_states == {"UPDATING": 2}
    assert scene.view().status == "DEPLOYING"

    for replica_id in ids(0, 1):
        scene.reconfigured(replica_id)
    assert scene.view().status == "RUNNING"
    assert scene.deployment().status_trigger == "CONFIG_UPDATE_COMPLETED"


def test_a_change_while_they_are_told_is_told_after_that() -> None:
    scene = scene_with(1)
    scene.deploy(deployment_spec(user_config=1))
    assert told(scene.deploy(deployment_spec(user_config=2))) == []
    assert told(scene.reconfigured(ids(0)[0])) == [(ids(0)[0], 2, 0)]
    scene.reconfigured(ids(0)[0])
    assert scene.view().status == "RUNNING"


def test_refused_settings_fail_the_deploy_and_the_old_ones_come_back() -> None:
    scene = scene_with(2, user_config="old")
    scene.deploy(deployment_spec(num_replicas=2, user_config="bad"))
    scene.reconfigured(ids(0)[0])
    commands = scene.reconfigured(ids(1)[0], "Traceback\n  in reconfigure\nKeyError: 'bad'")
    assert told(commands) == [(ids(0)[0], "old", 0), (ids(1)[0], "old", 1)]
    assert scene.view().status == "DEPLOY_FAILED"
    assert scene.deployment().message.startswith("reconfigure of model failed: KeyError: 'bad'\nTraceback")
    for replica_id in ids(0, 1):
        scene.reconfigured(replica_id)
    assert scene.routed() == tuple(ids(0, 1))

    commands = scene.exited(*ids(0))
    assert starts(commands) == ids(2), "what ran before is kept up"
    scene.running(*ids(2))
    assert scene.deploy(deployment_spec(num_replicas=2, user_config="better"))
    for replica_id in ids(1, 2):
        scene.reconfigured(replica_id)
    assert scene.view().status == "RUNNING"


def test_settings_that_are_refused_with_nothing_to_return_to_are_told_once() -> None:
    """The first deploy was not through yet, so there is nothing that ran before."""
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2, user_config="first"))
    scene.running(*ids(0))
    assert told(scene.deploy(deployment_spec(num_replicas=2, user_config="bad"))) == [(ids(0)[0], "bad", 0)]
    assert told(scene.reconfigured(ids(0)[0], "KeyError: 'bad'")) == []
    assert told(scene.wait(600)) == []
    assert scene.deployment().status == "DEPLOY_FAILED"
    assert ids(0)[0] in scene.routed(), "it serves as it is"

    assert told(scene.deploy(deployment_spec(num_replicas=2, user_config="good"))) == [(ids(0)[0], "good", 0)]


def test_ranks_are_closed_up_when_a_replica_has_left() -> None:
    scene = scene_with(3)
    assert [replica.rank for replica in scene.deployment().replicas] == [0, 1, 2]
    scene.exited(*ids(0))
    scene.running(*ids(3))
    assert sorted(replica.rank for replica in scene.deployment().replicas) == [0, 1, 2], "its successor gets its rank"

    commands = scene.deploy(deployment_spec(num_replicas=1))
    [kept] = [replica for replica in scene.deployment().replicas if replica.state != "STOPPING"]
    assert kept.rank == 0 or told(commands) == [(kept.replica_id, None, 0)]


def test_rollback_returns_to_what_ran_before_and_can_be_undone() -> None:
    scene = scene_with(1)
    assert not scene.view().can_roll_back
    scene.deploy(deployment_spec(version="v2"))
    scene.running(*ids(1))
    scene.exited(*ids(0))
    assert scene.view().can_roll_back

    [saved, *commands] = scene.send(RollBack("shop"))
    assert isinstance(saved, SaveTarget)
    assert saved.target.applications == (application_spec(deployment_spec()),)
    assert starts(commands) == ids(2)
    scene.running(*ids(2))
    scene.exited(*ids(1))
    assert scene.deployment().version == "v1"
    scene.send(RollBack("shop"))
    assert scene.deployment().version == "v2"


def test_rollback_from_a_failed_update_returns_to_what_goes_on() -> None:
    scene = scene_with(2, max_constructor_failures=1)
    scene.deploy(deployment_spec(version="v2", num_replicas=2, max_constructor_failures=1))
    scene.exited(*ids(2), cause="exited with code 1")
    assert scene.view().status == "DEPLOY_FAILED"
    assert set(scene.routed()) == set(ids(0, 1))

    assert starts([*scene.exited(*ids(0)), *scene.wait(1)]) == ids(4), "of the version that ran before"
    scene.running(*ids(4))
    assert scene.view().status == "DEPLOY_FAILED"
    assert starts(scene.send(RollBack("shop"))) == []
    assert scene.view().status == "RUNNING"
    assert not scene.view().can_roll_back


def test_rollback_of_an_unknown_application_does_nothing() -> None:
    assert scene_with(1).send(RollBack("other")) == []


def test_a_number_from_outside_holds_until_the_next_deploy() -> None:
    scene = scene_with(1)
    commands = scene.send(ScaleDeployment(DeploymentId("shop", "model"), 3))
    assert starts(commands) == ids(1, 2)
    assert scene.cluster.target().replicas == {"shop#model": 3}
    assert "from 1 to 3 replicas" in scene.notes[-1].message
    scene.running(*ids(1, 2))
    assert scene.deployment().status_trigger == "UPSCALE_COMPLETED"
    assert len(drains(scene.deploy(deployment_spec()))) == 2


def test_three_failed_health_checks_replace_a_replica() -> None:
    scene = scene_with(2)
    first = ids(0)[0]
    assert drains(scene.send(HealthChecked(first, "Traceback\nRuntimeError: sick"))) == []
    assert scene.routed() == tuple(ids(1)), "others are preferred from the first failure on"
    assert scene.deployment().replicas[0].reason == "failed its health check: RuntimeError: sick"
    scene.send(HealthChecked(first))
    assert scene.routed() == tuple(ids(0, 1))

    for _ in range(2):
        scene.send(HealthChecked(first, "RuntimeError: sick"))
    commands = scene.send(HealthChecked(first, "RuntimeError: sick"))
    assert (drains(commands), starts(commands), kills(commands)) == ([first], ids(2), [])
    assert scene.deployment().status == "HEALTHY"
    assert "failed its health check: RuntimeError: sick, 3 times" in scene.deployment().message
    assert [note.kind for note in scene.notes][-1] == "replica"


def test_a_sick_replica_serves_while_there_is_no_other() -> None:
    scene = scene_with(1)
    scene.send(HealthChecked(ids(0)[0], "RuntimeError: sick"))
    assert scene.routed() == tuple(ids(0))


def test_what_a_recovered_replica_says_of_its_rank_is_believed() -> None:
    scene = scene_with(2)
    scene.send(ReplicaInitialized(ids(0)[0], rank=7))
    assert [replica.rank for replica in scene.deployment().replicas] == [0, 1], "it was not asked"
