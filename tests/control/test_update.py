"""Rolling updates: no capacity is lost, a broken version stops them, routes switch when that loses nothing."""

from __future__ import annotations

from scene import Scene, application_spec, deployment_spec, drains, kills, starts

from salver.control.events import DeployApplication, InitializeFailed, Load, LoadSampled
from salver.records import AutoscalingSpec, Resources
from salver.wire.snapshot import ApplicationRoute


def ids(*numbers: int, key: str = "shop#model") -> list[str]:
    return [f"{key}#r{number}" for number in numbers]


def scene_with(num_replicas: int, version: str = "v1") -> Scene:
    scene = Scene()
    scene.deploy(deployment_spec(version=version, num_replicas=num_replicas))
    scene.running(*ids(*range(num_replicas)))
    return scene


def routes(scene: Scene) -> tuple[ApplicationRoute, ...]:
    return scene.cluster.snapshot().applications


def test_each_new_replica_that_runs_relieves_an_old_one() -> None:
    scene = scene_with(3)

    commands = scene.deploy(deployment_spec(version="v2", num_replicas=3))
    assert starts(commands) == ids(3, 4, 5)
    assert drains(commands) == []
    assert scene.deployment().status == "UPDATING"
    assert scene.routed() == tuple(ids(0, 1, 2))

    assert drains(scene.running(*ids(3))) == ids(2)
    assert drains(scene.running(*ids(4))) == ids(1)
    assert scene.view().status == "DEPLOYING"
    assert drains(scene.running(*ids(5))) == ids(0)

    assert scene.routed() == tuple(ids(3, 4, 5))
    assert scene.deployment().status == "HEALTHY"
    assert scene.deployment().status_trigger == "CONFIG_UPDATE_COMPLETED"
    assert scene.view().status == "RUNNING"


def test_an_update_that_grows_keeps_all_old_ones_until_they_are_not_needed() -> None:
    scene = scene_with(2)
    scene.deploy(deployment_spec(version="v2", num_replicas=4))

    assert drains(scene.running(*ids(2))) == []
    assert drains(scene.running(*ids(3))) == []
    assert drains(scene.running(*ids(4))) == ids(1)
    assert drains(scene.running(*ids(5))) == ids(0)


def test_an_update_that_shrinks_drains_the_surplus_at_once() -> None:
    scene = scene_with(4)

    commands = scene.deploy(deployment_spec(version="v2", num_replicas=2))

    assert sorted(drains(commands)) == ids(2, 3)
    assert starts(commands) == ids(4, 5)
    assert scene.routed() == tuple(ids(0, 1))


def test_an_update_to_zero_replicas_drains_everything() -> None:
    scene = scene_with(2)
    assert drains(scene.deploy(deployment_spec(version="v2", num_replicas=0))) == ids(0, 1)
    assert scene.deployment().status == "HEALTHY"


def test_an_update_of_an_update_kills_what_had_only_begun() -> None:
    scene = scene_with(2)
    scene.deploy(deployment_spec(version="v2", num_replicas=2))
    scene.running(*ids(2))
    scene.started(*ids(3))

    commands = scene.deploy(deployment_spec(version="v3", num_replicas=2))

    assert kills(commands) == ids(3)
    assert starts(commands) == ids(4, 5)
    assert scene.routed() == tuple(ids(0, 2))


def test_going_back_to_the_old_version_keeps_what_is_left_of_it() -> None:
    scene = scene_with(2)
    scene.deploy(deployment_spec(version="v2", num_replicas=2))
    scene.running(*ids(2))

    commands = scene.deploy(deployment_spec(version="v1", num_replicas=2))

    assert kills(commands) == ids(3)
    assert starts(commands) == ids(4)
    assert drains(scene.running(*ids(4))) == ids(2)
    assert scene.routed() == tuple(ids(0, 4))


def test_a_broken_version_stops_the_update_and_the_old_one_serves_on() -> None:
    scene = scene_with(2)
    scene.deploy(deployment_spec(version="v2", num_replicas=2, max_constructor_failures=1))
    scene.started(*ids(2, 3))

    error = "Traceback (most recent call last):\n  File x\nValueError: no such model"
    commands = scene.send(InitializeFailed("shop#model#r2", error))

    assert kills(commands) == ids(2, 3)
    assert starts(commands) == []
    assert scene.routed() == tuple(ids(0, 1))
    view = scene.deployment()
    assert (view.status, view.status_trigger) == ("DEPLOY_FAILED", "REPLICA_STARTUP_FAILED")
    assert view.message == f"constructor of model failed: ValueError: no such model\n{error}"
    assert (scene.view().status, scene.view().message) == ("DEPLOY_FAILED", view.message)
    scene.exited(*ids(2, 3))
    assert scene.cluster.next_deadline() is None
    assert scene.cluster.snapshot().deployments[0].unavailable == ""


def test_a_failed_update_is_mended_by_the_next_deploy() -> None:
    scene = scene_with(1)
    scene.deploy(deployment_spec(version="v2", max_constructor_failures=1))
    scene.started(*ids(1))
    scene.send(InitializeFailed("shop#model#r1", "ValueError"))

    assert starts(scene.deploy(deployment_spec(version="v3"))) == ids(2)
    assert drains(scene.running(*ids(2))) == ids(0)
    assert scene.view().status == "RUNNING"


def test_a_dropped_deployment_serves_until_the_new_ones_run() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), deployment_spec("old"))
    scene.running("shop#web#r0", "shop#old#r1")

    commands = scene.deploy(deployment_spec("web"), deployment_spec("new"))
    assert starts(commands) == ["shop#new#r2"]
    assert drains(commands) == []
    assert scene.routed("shop#old") == ("shop#old#r1",)

    assert drains(scene.running("shop#new#r2")) == ["shop#old#r1"]
    keys = [deployment.key for deployment in scene.cluster.snapshot().deployments]
    assert sorted(keys) == ["shop#new", "shop#web"]
    assert scene.deployment("old").status_trigger == "DELETING"
    scene.exited("shop#old#r1")
    assert [view.name for view in scene.view().deployments] == ["web", "new"]


def test_a_dropped_deployment_that_comes_back_stays_as_it_is() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), deployment_spec("old"))
    scene.running("shop#web#r0", "shop#old#r1")
    scene.deploy(deployment_spec("web", version="v2"))

    commands = scene.deploy(deployment_spec("web"), deployment_spec("old"))

    assert kills(commands) == ["shop#web#r2"]
    assert starts(commands) == []
    assert drains(commands) == []
    assert scene.view().status == "RUNNING"


def test_a_dropped_deployment_is_repaired_while_it_serves() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), deployment_spec("old"))
    scene.running("shop#web#r0", "shop#old#r1")
    scene.deploy(deployment_spec("web", version="v2"))

    assert starts(scene.exited("shop#old#r1")) == ["shop#old#r3"]


def test_the_route_stays_with_the_old_ingress_until_the_new_one_runs() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), route_prefix="/a")
    scene.running("shop#web#r0")

    scene.deploy(deployment_spec("front"), route_prefix="/b")
    assert routes(scene) == (ApplicationRoute("shop", "/a", "web"),)
    assert scene.view().route_prefix == "/b"

    scene.running("shop#front#r1")
    assert routes(scene) == (ApplicationRoute("shop", "/b", "front"),)


def test_the_route_switches_at_once_when_the_old_ingress_serves_nobody() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), route_prefix="/a")
    scene.deploy(deployment_spec("front"), route_prefix="/b")
    assert routes(scene) == (ApplicationRoute("shop", "/b", "front"),)


def test_the_route_switches_to_an_ingress_that_wants_no_replicas_when_the_update_is_through() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"))
    scene.running("shop#web#r0")

    scene.deploy(deployment_spec("front", num_replicas=0), deployment_spec("web", version="v2"))
    assert routes(scene) == (ApplicationRoute("shop", "/", "web"),)

    scene.running("shop#web#r1")
    assert routes(scene) == (ApplicationRoute("shop", "/", "front"),)


def test_a_prefix_that_was_given_up_is_free_for_others_at_once() -> None:
    scene = Scene()
    scene.deploy(deployment_spec("web"), route_prefix="/a")
    scene.running("shop#web#r0")
    scene.deploy(deployment_spec("front"), route_prefix="/b")

    scene.send(DeployApplication(application_spec(deployment_spec(app="other"), route_prefix="/a")))

    assert routes(scene) == (
        ApplicationRoute("shop", "/b", "front"),
        ApplicationRoute("other", "/a", "model"),
    )


def test_a_crash_during_an_update_starts_nothing_of_the_old_version() -> None:
    scene = scene_with(2)
    scene.deploy(deployment_spec(version="v2", num_replicas=2))

    assert starts(scene.exited(*ids(0))) == []
    assert scene.routed() == tuple(ids(1))
    assert drains(scene.running(*ids(2))) == []
    assert drains(scene.running(*ids(3))) == ids(1)


def test_a_deployment_on_its_way_out_is_not_scaled_and_wakes_nobody_for_that() -> None:
    """Its update waits for something; what its autoscaling wanted to do in a second is not due any more."""
    scene = Scene()
    scaled = AutoscalingSpec(min_replicas=1, max_replicas=4, upscale_delay_s=1.0)
    scene.deploy(deployment_spec("old", autoscaling=scaled))
    scene.running("shop#old#r0")
    scene.send(LoadSampled({"shop#old": Load(20, 20)}))
    scene.deploy(deployment_spec("new", resources=Resources(num_gpus=3)))

    assert starts(scene.wait(5)) == []
    deadline = scene.cluster.next_deadline()
    assert deadline is None or deadline > scene.now
    assert scene.routed("shop#old") == ("shop#old#r0",)
