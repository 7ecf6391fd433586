"""Crashes, broken constructors and silence: back-off, status, and what people are told."""

from __future__ import annotations

import pytest
from scene import Scene, deployment_spec, kills, starts

from salver.control.events import (
    InitializeFailed,
    KillReplica,
    ProcessExited,
    ReplicaInitialized,
    StartFailed,
)
from salver.control.status import FAILURES_OF_A_CRASH_LOOP

R0 = "shop#model#r0"
R1 = "shop#model#r1"


def fail_constructor(scene: Scene, replica_id: str) -> None:
    scene.started(replica_id)
    scene.send(InitializeFailed(replica_id, "ValueError: no such model"))
    scene.exited(replica_id)


def test_a_running_replica_that_dies_is_replaced_at_once() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0, R1)

    assert starts(scene.exited(R0)) == ["shop#model#r2"]

    view = scene.deployment()
    assert (view.status, view.status_trigger) == ("HEALTHY", "CONFIG_UPDATE_COMPLETED")
    assert view.message == f"replica {R0} was killed by SIGKILL; a new one is starting"
    assert scene.view().status == "RUNNING"
    scene.running("shop#model#r2")
    assert scene.deployment().message == ""


def test_a_deployment_without_any_running_replica_is_unhealthy() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)

    scene.exited(R0, cause="exited with code 3")

    view = scene.deployment()
    assert (view.status, view.status_trigger) == ("UNHEALTHY", "UNSPECIFIED")
    assert view.message == f"replica {R0} exited with code 3; a new one is starting"
    assert (scene.view().status, scene.view().message) == ("UNHEALTHY", view.message)


def test_two_failures_in_a_row_are_unhealthy_although_another_replica_runs() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0, R1)
    scene.exited(R0)
    scene.exited("shop#model#r2", cause="exited with code 1")

    view = scene.deployment()
    assert (view.status, view.status_trigger) == ("UNHEALTHY", "REPLICA_STARTUP_FAILED")
    assert view.message == "replica shop#model#r2 exited with code 1 before it could be reached"


def test_a_crash_loop_backs_off_up_to_half_a_minute() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)

    waits: list[float] = []
    for number in range(12):
        scene.exited(f"shop#model#r{number}")
        waits.append(round((scene.cluster.next_deadline() or 0) - scene.now, 6))
        if number:  # the first is replaced at once
            assert starts(scene.wait(waits[-1])) == [f"shop#model#r{number + 1}"]
        scene.running(f"shop#model#r{number + 1}")

    assert waits == [10.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_ten_seconds_of_running_forgive_the_failures() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    scene.exited(R0)
    scene.running(R1)
    scene.wait(9.9)
    assert scene.cluster.next_deadline() is not None
    scene.wait(0.1)
    assert scene.cluster.next_deadline() is None

    assert starts(scene.exited(R1)) == ["shop#model#r2"]


def test_other_replicas_that_run_do_not_forgive_a_constructor_that_keeps_failing() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0, R1)
    scene.exited(R1)
    for number in range(2, 12):
        fail_constructor(scene, f"shop#model#r{number}")
        scene.wait_for_deadline()
    fail_constructor(scene, "shop#model#r12")

    assert scene.deployment().status == "UNHEALTHY"
    assert scene.cluster.next_deadline() == scene.now + 30.0


def test_scaling_the_failing_one_away_forgives_it_after_a_while() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=1))
    scene.running(R0)
    scene.deploy(deployment_spec(num_replicas=2))
    fail_constructor(scene, R1)
    scene.deploy(deployment_spec(num_replicas=1))
    scene.exited("shop#model#r2")
    assert scene.deployment().status == "HEALTHY"
    scene.wait(10)
    assert scene.cluster.next_deadline() is None


def test_a_constructor_that_always_fails_fails_the_deployment() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())

    waits: list[float] = []
    for number in range(2):
        fail_constructor(scene, f"shop#model#r{number}")
        waits.append(round((scene.cluster.next_deadline() or 0) - scene.now, 6))
        assert scene.deployment().status == "UPDATING"
        assert starts(scene.wait(1)) == [f"shop#model#r{number + 1}"]
    fail_constructor(scene, "shop#model#r2")

    assert waits == [0.1, 0.2]
    assert scene.deployment().status == "DEPLOY_FAILED"
    assert scene.cluster.next_deadline() is None
    assert scene.wait(3600) == []
    route = scene.cluster.snapshot().deployments[0]
    assert route.unavailable == "it failed to deploy: constructor of model failed: ValueError: no such model"


def test_a_failed_deployment_is_tried_again_by_the_same_deploy() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(max_constructor_failures=1))
    fail_constructor(scene, R0)

    assert starts(scene.deploy(deployment_spec(max_constructor_failures=1))) == [R1]
    assert scene.deployment().status == "UPDATING"
    scene.running(R1)
    assert scene.deployment().status == "HEALTHY"


def test_a_version_that_once_ran_is_never_given_up() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0)
    fail_constructor(scene, R1)
    fail_constructor(scene, "shop#model#r2")
    for number in range(3, 8):
        assert starts(scene.wait_for_deadline()) == [f"shop#model#r{number}"]
        fail_constructor(scene, f"shop#model#r{number}")

    assert scene.deployment().status == "UNHEALTHY"
    assert starts(scene.wait_for_deadline()) == ["shop#model#r8"]


def test_a_version_that_once_ran_is_never_given_up_when_nothing_of_it_is_left() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(max_constructor_failures=1))
    scene.running(R0)
    scene.exited(R0)
    fail_constructor(scene, R1)

    assert scene.deployment().status == "UNHEALTHY"
    assert scene.cluster.snapshot().deployments[0].unavailable == ""
    assert starts(scene.wait_for_deadline()) == ["shop#model#r2"]


def test_a_constructor_that_hangs_is_killed_and_named() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(startup_timeout_s=7.5, max_constructor_failures=1))
    scene.started(R0)

    assert scene.wait(7.4) == []
    assert kills(scene.wait(0.1)) == [R0]
    assert scene.deployment().message == "constructor of model did not return within 7.5 s"


def test_a_start_that_hangs_is_killed_and_named() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())

    assert kills(scene.wait(10)) == [R0]

    assert scene.deployment().message == f"the process of replica {R0} did not start within 10 s"
    assert starts(scene.wait(0.1)) == [R1]
    assert scene.started(R0) == [KillReplica(R0)]


def test_a_start_that_fails_needs_no_kill() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(max_constructor_failures=1))

    assert kills(scene.send(StartFailed(R0, "fork: Resource temporarily unavailable"))) == []

    message = f"replica {R0} could not be started: fork: Resource temporarily unavailable"
    assert scene.deployment().message == message


@pytest.mark.parametrize("cause", ["killed by SIGSEGV", "exited with code 1"])
def test_an_exit_in_the_constructor_names_its_cause(cause: str) -> None:
    scene = Scene()
    scene.deploy(deployment_spec(max_constructor_failures=1))
    scene.started(R0)
    scene.exited(R0, cause=cause)

    assert scene.deployment().status == "DEPLOY_FAILED"
    assert scene.deployment().message.endswith(f"{cause} before its constructor returned")


def test_a_kill_that_gets_no_answer_is_sent_again_and_again() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.started(R0)
    scene.delete()

    for _ in range(3):
        assert scene.wait(5) == [KillReplica(R0)]
    scene.exited(R0)
    assert scene.cluster.next_deadline() is None


def test_a_drain_that_takes_too_long_ends_in_a_kill() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(graceful_shutdown_timeout_s=3))
    scene.running(R0)
    scene.delete()

    assert scene.wait(3.9) == []
    assert scene.wait(0.1) == [KillReplica(R0)]


def test_a_replica_that_dies_while_it_drains_is_no_failure() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=2))
    scene.running(R0, R1)
    scene.deploy(deployment_spec(num_replicas=1))

    assert scene.send(ProcessExited(R1, "killed by SIGKILL")) == []
    assert scene.deployment().status == "HEALTHY"
    assert scene.cluster.next_deadline() is None


def test_an_exit_and_an_initialization_that_cross_on_the_way() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.started(R0)
    scene.exited(R0)

    assert scene.send(ReplicaInitialized(R0)) == []
    assert scene.routed() == ()


def test_a_crash_loop_refuses_requests_at_once_and_goes_on_trying() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running("shop#model#r0")
    scene.exited("shop#model#r0")
    for number in range(1, FAILURES_OF_A_CRASH_LOOP + 1):
        [route] = scene.cluster.snapshot().deployments
        assert route.unavailable == "", "it may come back soon: requests wait"
        scene.running(f"shop#model#r{number}")
        scene.exited(f"shop#model#r{number}")
        scene.wait_for_deadline()
    [route] = scene.cluster.snapshot().deployments
    assert route.unavailable.startswith("its replicas crash again and again: replica shop#model#r5 was killed by")
    assert scene.deployment().status == "UNHEALTHY"

    scene.running("shop#model#r6")
    [route] = scene.cluster.snapshot().deployments
    assert route.unavailable == ""
