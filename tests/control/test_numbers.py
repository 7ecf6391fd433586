"""Changes of a number of replicas, whoever makes them: each is told with its reason, and is the status on the way."""

from __future__ import annotations

import pytest
from scene import Scene, application_spec, deployment_spec

from salver.control.events import DeployApplication, RollBack, ScaleDeployment, SetCapacity
from salver.records import AutoscalingSpec, DeploymentId

MODEL = DeploymentId("shop", "model")


def run_all(scene: Scene) -> None:
    """Bring up what starts, and let go what stops."""
    for replica in scene.deployment().replicas:
        if replica.state == "STARTING":
            scene.running(replica.replica_id)
        elif replica.state == "STOPPING":
            scene.exited(replica.replica_id, cause="exited with code 0")


def scaled(scene: Scene) -> list[str]:
    """What was told of numbers, since this was asked last."""
    told = [note.message for note in scene.notes if note.kind == "scale"]
    scene.notes.clear()
    return told


def status(scene: Scene) -> tuple[str, str]:
    view = scene.deployment()
    return view.status, view.status_trigger


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.deploy(deployment_spec(num_replicas=2))
    run_all(made)
    made.notes.clear()
    return made


def test_target_capacity_down_to_nothing_and_back(scene: Scene) -> None:
    scene.send(SetCapacity(50.0))
    assert scaled(scene) == ["from 2 to 1 replicas: target_capacity went from 100 % to 50 %"]
    assert status(scene) == ("DOWNSCALING", "CONFIG_UPDATE_STARTED")
    run_all(scene)
    assert status(scene) == ("HEALTHY", "DOWNSCALE_COMPLETED")

    scene.send(SetCapacity(0.0))
    assert scaled(scene) == ["from 1 to 0 replicas: target_capacity went from 50 % to 0 %"]
    run_all(scene)
    assert status(scene) == ("HEALTHY", "DOWNSCALE_COMPLETED")

    scene.send(SetCapacity(100.0))
    assert scaled(scene) == ["from 0 to 2 replicas: target_capacity went from 0 % to 100 %"]
    assert status(scene) == ("UPSCALING", "CONFIG_UPDATE_STARTED"), "nothing has failed"
    assert (scene.view().status, scene.view().message) == ("DEPLOYING", "")
    first, second = scene.deployment().replicas
    scene.running(first.replica_id)
    assert status(scene) == ("UPSCALING", "CONFIG_UPDATE_STARTED")
    scene.running(second.replica_id)
    assert status(scene) == ("HEALTHY", "UPSCALE_COMPLETED")
    assert scene.view().status == "RUNNING"

    scene.send(SetCapacity(None))
    assert scaled(scene) == []


def test_a_capacity_that_changes_during_an_update_leaves_it_one(scene: Scene) -> None:
    scene.deploy(deployment_spec(version="v2", num_replicas=2))
    scene.send(SetCapacity(50.0))
    assert status(scene) == ("UPDATING", "CONFIG_UPDATE_STARTED")
    assert scaled(scene) == ["from 2 to 1 replicas: target_capacity went from 100 % to 50 %"]


def test_a_deploy_that_takes_back_what_the_control_api_asked_for(scene: Scene) -> None:
    scene.send(ScaleDeployment(MODEL, 4))
    run_all(scene)
    assert scaled(scene) == ["from 2 to 4 replicas: asked for by the control API"]
    scene.deploy(deployment_spec(num_replicas=2))
    assert [note.kind for note in scene.notes] == ["deploy", "scale"]
    assert scaled(scene) == ["from 4 to 2 replicas: deployed with num_replicas=2; the control API had asked for 4"]
    assert status(scene)[0] == "DOWNSCALING"


def test_deploys_and_rollbacks_with_another_number(scene: Scene) -> None:
    scene.deploy(deployment_spec(num_replicas=3))
    assert scaled(scene) == ["from 2 to 3 replicas: deployed with num_replicas=3"]
    run_all(scene)
    scene.send(RollBack("shop"))
    assert scaled(scene) == ["from 3 to 2 replicas: deployed with num_replicas=2"]
    run_all(scene)
    scene.deploy(deployment_spec(version="v2", num_replicas=2))
    assert scaled(scene) == []


def test_bounds_of_autoscaling(scene: Scene) -> None:
    bounds = AutoscalingSpec(min_replicas=3, max_replicas=5)
    scene.send(DeployApplication(application_spec(deployment_spec(num_replicas=3, autoscaling=bounds))))
    assert scaled(scene) == ["from 2 to 3 replicas: deployed with 3 to 5 replicas"]
    scene.deploy(deployment_spec(num_replicas=1))
    assert scaled(scene) == ["from 3 to 1 replicas: deployed with num_replicas=1"]


def test_what_is_new_or_deleted_is_no_change_of_a_number(scene: Scene) -> None:
    scene.deploy(deployment_spec(num_replicas=2), deployment_spec("other", num_replicas=3))
    scene.delete()
    scene.send(SetCapacity(50.0))
    assert scaled(scene) == []
