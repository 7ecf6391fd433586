"""Crashes, broken constructors and silence: back-off, status, and what people are told."""

from __future__ import annotations

import pytest
from scene import Scene, application_spec, deployment_spec, kills, starts

from salver.control.backoff import CALM_S, FAILURES_OF_A_CRASH_LOOP
from salver.control.events import (
    FoundProcess,
    InitializeFailed,
    KillReplica,
    ProcessExited,
    Recover,
    ReplicaInitialized,
    StartFailed,
)
from salver.records import DeploymentId, Target

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


def test_what_dies_a_while_after_each_start_is_a_crash_loop_too() -> None:
    """A good run that ends the series has to be longer than any bug takes to show."""
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    waits: list[float] = []
    for number in range(9):
        scene.wait(11)
        scene.exited(f"shop#model#r{number}", cause="exited with code 9")
        died_at = scene.now
        while f"shop#model#r{number + 1}" not in {view.replica_id for view in scene.deployment().replicas}:
            scene.wait_for_deadline()
        waits.append(round(scene.now - died_at, 6))
        scene.running(f"shop#model#r{number + 1}")
    assert waits == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6]


def test_the_status_of_a_crash_loop_says_how_often_why_and_when_it_is_tried_again() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    for number in range(FAILURES_OF_A_CRASH_LOOP + 1):
        while f"shop#model#r{number}" not in {view.replica_id for view in scene.deployment().replicas}:
            scene.wait_for_deadline()
        scene.running(f"shop#model#r{number}")
        scene.wait(2)
        scene.exited(f"shop#model#r{number}", cause="exited with code 9")
    scene.now += 1

    view = scene.deployment()
    often = "crash loop: 6 failures in 13 s"
    assert (view.status, view.status_trigger) == ("UNHEALTHY", "UNSPECIFIED")
    assert view.message == f"{often}; the next attempt in 2.2 s; the last: replica shop#model#r5 exited with code 9"
    assert scene.view().message == view.message
    assert {note.message for note in scene.notes if note.replica_id} == {
        f"exited with code 9; {what}"
        for what in ("a new one is starting", *(f"the next one starts in {s} s" for s in (0.2, 0.4, 0.8, 1.6, 3.2)))
    }
    (event,) = (note for note in scene.notes if note.message.startswith("crash loop"))
    assert (event.kind, event.deployment) == ("replica", "model")
    last = "the last: replica shop#model#r5 exited with code 9"
    assert event.message == f"{often}, from now on with pauses of up to 30 s; {last}"

    scene.wait_for_deadline()
    assert "; another attempt is under way; the last: " in scene.deployment().message
    scene.running("shop#model#r6")
    assert scene.deployment().status == "HEALTHY"
    assert "; all run for now; over after 10 min of that; the last: " in scene.deployment().message
    scene.wait(CALM_S)
    assert scene.deployment().message == ""
    assert scene.notes[-1].message == "the crash loop is over: it runs well again"


def test_those_that_ran_long_are_replaced_at_once_however_many_die() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(num_replicas=3))
    scene.running(R0, R1, "shop#model#r2")
    scene.wait(3600)
    for number in range(3):
        assert starts(scene.exited(f"shop#model#r{number}")) == [f"shop#model#r{number + 3}"]
        scene.running(f"shop#model#r{number + 3}")
    scene.wait(1)
    assert starts(scene.exited("shop#model#r3")) == [], "this one has not"


def test_what_a_found_replica_did_before_the_controller_restarted_counts() -> None:
    target = Target((application_spec(deployment_spec(num_replicas=2)),))
    processes = tuple(
        FoundProcess(name, DeploymentId("shop", "model"), "v1", slot, 1, f"unix:/{slot}", age_s=3600.0)
        for slot, name in enumerate(("shop#model#x", "shop#model#y"))
    )
    scene = Scene(recover=Recover(target, processes))
    assert starts(scene.exited("shop#model#x")) == [R0]
    scene.running(R0)
    assert starts(scene.exited("shop#model#y")) == [R1]


def test_ten_minutes_of_running_forgive_the_failures() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    scene.exited(R0)
    scene.running(R1)
    scene.wait(CALM_S - 0.1)
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


@pytest.mark.parametrize("step", ["reconfigure", "first check_health"])
def test_what_fails_after_the_constructor_is_not_called_that(step: str) -> None:
    scene = Scene()
    scene.deploy(deployment_spec(max_constructor_failures=1))
    scene.started(R0)
    scene.send(InitializeFailed(R0, "Traceback:\nRuntimeError: never healthy", step))

    view = scene.deployment()
    assert (view.status, view.message.partition("\n")[0]) == (
        "DEPLOY_FAILED",
        f"{step} of model failed: RuntimeError: never healthy",
    )


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


def test_a_failure_that_is_over_does_not_make_an_update_of_a_change_of_the_number() -> None:
    scene = Scene()
    scene.deploy(deployment_spec())
    scene.running(R0)
    scene.exited(R0)
    scene.running(R1)
    scene.deploy(deployment_spec(num_replicas=2))
    assert scene.deployment().status == "UPSCALING"
