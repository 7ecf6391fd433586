"""Deploying, deleting, and what is saved and published on the way: commands compared whole."""

from __future__ import annotations

import pytest
from scene import (
    MACHINE,
    WALL_CLOCK_OFFSET,
    Scene,
    address_of,
    application_spec,
    deployment_spec,
    drains,
    kills,
    published,
    starts,
)

from salver.control.application import conflicting_application
from salver.control.cluster import Cluster
from salver.control.events import (
    DeployApplication,
    DrainReplica,
    InitializeReplica,
    KillReplica,
    ProcessStarted,
    Publish,
    Recover,
    ReplicaInitialized,
    SaveTarget,
    StartReplica,
    Tick,
)
from salver.records import Target
from salver.wire.snapshot import ApplicationRoute, DeploymentRoute, ReplicaRoute, Snapshot

R0 = "shop#model#r0"
R1 = "shop#model#r1"


def test_a_deployment_from_deploy_to_deletion() -> None:
    scene = Scene()
    spec = deployment_spec()
    app = application_spec(spec)
    shop = ApplicationRoute("shop", "/", "model")

    empty = DeploymentRoute("shop#model", (), max_ongoing_requests=5, max_queued_requests=-1)
    at_s = {"shop": scene.now + WALL_CLOCK_OFFSET}
    assert scene.send(DeployApplication(app)) == [
        SaveTarget(Target((app,), deployed_at_s=at_s)),
        StartReplica(R0, slot=0, deployment=spec),
        Publish(Snapshot(7, 2, (shop,), (empty,))),
    ]
    initialize = InitializeReplica(R0, "unix:/r0", app, spec, 0)
    assert scene.send(ProcessStarted(R0, pid=5, address="unix:/r0")) == [initialize]
    full = DeploymentRoute("shop#model", (ReplicaRoute(R0, "unix:/r0", 0),), 5, -1)
    assert scene.send(ReplicaInitialized(R0)) == [
        SaveTarget(Target((app,), proven=("shop",), deployed_at_s=at_s)),
        Publish(Snapshot(7, 3, (shop,), (full,))),
    ]
    assert scene.view().status == "RUNNING"

    assert scene.delete() == [SaveTarget(Target()), DrainReplica(R0, "unix:/r0"), Publish(Snapshot(7, 4, (), ()))]
    assert scene.view().status == "DELETING"
    assert scene.exited(R0, cause="exited with code 0") == []
    assert scene.cluster.views(scene.now) == ()
    assert scene.cluster.next_deadline() is None


def test_the_first_event_must_be_recover_and_only_the_first() -> None:
    cluster = Cluster(epoch=1, new_suffix=lambda: "x", jitter=lambda: 0.0, capacity=MACHINE)
    with pytest.raises(AssertionError, match="Recover comes first"):
        cluster.handle(Tick(), 0.0)

    scene = Scene()
    with pytest.raises(AssertionError, match="Recover comes first"):
        scene.send(Recover(Target(), ()))


def test_a_fresh_controller_publishes_its_empty_table_once() -> None:
    scene = Scene()
    assert scene.first_commands == [Publish(Snapshot(epoch=7, version=1))]
    assert scene.send(Tick()) == []


def test_an_unchanged_deploy_restarts_nothing_but_is_a_deploy() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    scene.now += 50

    at_s = {"shop": scene.now + WALL_CLOCK_OFFSET}
    target = Target((application_spec(deployment_spec()),), proven=("shop",), deployed_at_s=at_s)
    assert scene.deploy(deployment_spec()) == [SaveTarget(target)]
    assert scene.view().last_deployed_time_s == scene.now + WALL_CLOCK_OFFSET
    assert scene.deployment().status == "HEALTHY"


def test_a_light_change_reaches_the_routers_and_restarts_nothing() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    changed = deployment_spec(max_queued_requests=9)

    commands = scene.deploy(changed)

    route = DeploymentRoute("shop#model", (ReplicaRoute(R0, address_of(R0), 0),), 5, 9)
    shop = ApplicationRoute("shop", "/", "model")
    snapshot = Snapshot(7, 4, (shop,), (route,))
    before = application_spec(deployment_spec())
    at_s = {"shop": scene.now + WALL_CLOCK_OFFSET}
    target = Target((application_spec(changed),), last_good=(before,), proven=("shop",), deployed_at_s=at_s)
    assert commands == [SaveTarget(target), Publish(snapshot)]
    assert scene.cluster.snapshot() == snapshot


def test_a_light_change_of_the_graceful_shutdown_time_counts_for_running_replicas() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(graceful_shutdown_timeout_s=20))
    scene.running(R0)
    scene.deploy(deployment_spec(graceful_shutdown_timeout_s=2))
    scene.delete()

    assert scene.wait(2.9) == []
    assert scene.wait(0.1) == [KillReplica(R0)]


def test_scaling_up_and_down() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)

    assert starts(scene.deploy(deployment_spec(num_replicas=3))) == [R1, "shop#model#r2"]
    assert scene.deployment().status == "UPSCALING"
    assert scene.deployment().status_trigger == "CONFIG_UPDATE_STARTED"
    scene.running(R1, "shop#model#r2")
    assert scene.deployment().status == "HEALTHY"
    assert scene.deployment().status_trigger == "UPSCALE_COMPLETED"

    commands = scene.deploy(deployment_spec(num_replicas=1))
    assert sorted(drains(commands)) == [R1, "shop#model#r2"]
    assert scene.deployment().status == "DOWNSCALING"
    assert scene.deployment().replica_states == {"RUNNING": 1, "STOPPING": 2}
    scene.exited(R1, "shop#model#r2")
    assert scene.deployment().status == "HEALTHY"
    assert scene.deployment().status_trigger == "DOWNSCALE_COMPLETED"


def test_scaling_down_takes_the_unfinished_first() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=3))
    scene.running("shop#model#r2")
    scene.started(R1)

    commands = scene.deploy(deployment_spec(num_replicas=1))

    assert sorted(kills(commands)) == [R0, R1]
    assert drains(commands) == []
    assert scene.routed() == ("shop#model#r2",)


def test_zero_replicas_are_healthy_at_once() -> None:
    scene = Scene()
    assert starts(scene.deploy(deployment_spec(num_replicas=0))) == []
    assert scene.view().status == "RUNNING"


def test_deleting_kills_what_does_not_run() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=3))
    scene.running(R0)
    scene.started(R1)

    commands = scene.delete()

    assert drains(commands) == [R0]
    assert sorted(kills(commands)) == [R1, "shop#model#r2"]
    assert scene.delete() == []
    assert scene.delete("never seen") == []


def test_a_deploy_while_deleting_is_a_fresh_application() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    scene.delete()

    commands = scene.deploy(deployment_spec())

    assert starts(commands) == [R1]
    assert commands[1] == StartReplica(R1, slot=1, deployment=deployment_spec())
    assert scene.routed() == ()
    scene.running(R1)
    assert scene.view().status == "RUNNING"
    assert scene.routed() == (R1,)
    scene.exited(R0)
    assert scene.deployment().replica_states == {"RUNNING": 1}


def test_a_slot_is_free_again_when_its_process_is_gone() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0, R1)
    scene.delete()
    scene.exited(R0)

    commands = scene.deploy(deployment_spec(num_replicas=2))

    slots = [command.slot for command in commands if isinstance(command, StartReplica)]
    assert slots == [0, 2]


def test_a_taken_suffix_is_drawn_again() -> None:
    suffixes = iter(["same", "same", "other"])
    cluster = Cluster(epoch=1, new_suffix=lambda: next(suffixes), jitter=lambda: 0.0, capacity=MACHINE)
    cluster.handle(Recover(Target(), ()), 0.0)

    commands = cluster.handle(DeployApplication(application_spec(deployment_spec(num_replicas=2))), 0.0)

    assert starts(commands) == ["shop#model#same", "shop#model#other"]


def test_a_suffix_that_never_varies_is_reported() -> None:
    cluster = Cluster(epoch=1, new_suffix=lambda: "same", jitter=lambda: 0.0, capacity=MACHINE)
    cluster.handle(Recover(Target(), ()), 0.0)

    with pytest.raises(AssertionError, match="does not vary"):
        cluster.handle(DeployApplication(application_spec(deployment_spec(num_replicas=2))), 0.0)


def test_a_process_nobody_waits_for_is_killed() -> None:
    scene = Scene()
    assert scene.started("shop#model#r9") == [KillReplica("shop#model#r9")]


def test_late_answers_about_the_gone_are_ignored() -> None:
    scene = Scene()
    assert scene.send(ReplicaInitialized("shop#model#r9")) == []
    assert scene.exited("shop#model#r9") == []


def test_conflicting_application() -> None:
    mine = application_spec(deployment_spec(app="mine"), route_prefix="/a")
    other = application_spec(deployment_spec(app="other"), route_prefix="/a")
    hidden = application_spec(deployment_spec(app="hidden"), route_prefix=None)
    also_hidden = application_spec(deployment_spec(app="also"), route_prefix=None)

    assert conflicting_application(mine, (hidden, other)) == "other"
    assert conflicting_application(mine, (mine, hidden)) is None
    assert conflicting_application(hidden, (also_hidden, other)) is None


def test_nothing_is_published_when_no_route_changed() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    assert published(scene.started(R0, R1)) == []
    assert len(published(scene.send(ReplicaInitialized(R0)))) == 1
