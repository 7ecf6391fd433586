"""What is remembered of replicas that have ended: why, how, and of how many."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scene import WALL_CLOCK_OFFSET, Scene, application_spec, deployment_spec, pid_of

from salver.control.deployment import HEALTH_FAILURES
from salver.control.endings import OF_A_DEPLOYMENT, OF_ALL, Endings
from salver.control.events import (
    FoundProcess,
    HealthChecked,
    InitializeFailed,
    ProcessExited,
    Recover,
    ReplicaInitialized,
    ReplicaSilent,
    ReplicaWorn,
    StartFailed,
)
from salver.control.leaving import FAILURES, Cause
from salver.records import DeploymentId, LoggingSpec, Target
from salver.views import EndedReplica

R0 = "shop#model#r0"
MODEL = DeploymentId("shop", "model")


def scene_of_one() -> Scene:
    scene = Scene()
    scene.deploy(deployment_spec())
    return scene


def is_killed(scene: Scene) -> None:
    scene.running(R0)
    scene.exited(R0, cause="killed by SIGKILL (out of memory)")


def cannot_start(scene: Scene) -> None:
    scene.send(StartFailed(R0, "could not fork: Cannot allocate memory"))


def does_not_start(scene: Scene) -> None:
    scene.wait_for_deadline()
    scene.exited(R0)


def constructor_raises(scene: Scene) -> None:
    scene.started(R0)
    scene.send(InitializeFailed(R0, "Traceback\nValueError: no such model"))
    scene.exited(R0)


def is_unhealthy(scene: Scene) -> None:
    scene.running(R0)
    for _ in range(HEALTH_FAILURES):
        scene.send(HealthChecked(R0, "Traceback\nRuntimeError: no GPU"))
    scene.exited(R0, cause="exited with code 0")


def hangs(scene: Scene) -> None:
    scene.running(R0)
    scene.send(ReplicaSilent(R0, "no sign of life", hung=True))
    scene.wait_for_deadline()
    scene.exited(R0)


def does_not_reconfigure(scene: Scene) -> None:
    scene.running(R0)
    scene.deploy(deployment_spec(user_config={"a": 1}))
    scene.wait_for_deadline()
    scene.exited(R0)


def is_worn(scene: Scene) -> None:
    scene.running(R0)
    scene.send(ReplicaWorn(R0, "its memory has grown to 2 GiB"))
    scene.running("shop#model#r1")
    scene.exited(R0, cause="exited with code 0")


def is_updated(scene: Scene) -> None:
    scene.running(R0)
    scene.deploy(deployment_spec(version="v2"))
    scene.running("shop#model#r1")
    scene.exited(R0, cause="exited with code 0")


def is_scaled_down_and_does_not_finish_in_time(scene: Scene) -> None:
    scene.running(R0)
    scene.deploy(deployment_spec(num_replicas=0))
    scene.wait_for_deadline()
    scene.exited(R0)


def is_removed(scene: Scene) -> None:
    scene.running(R0)
    scene.delete()
    scene.exited(R0, cause="exited with code 0")


@pytest.mark.parametrize(
    ("story", "cause", "reason", "how"),
    [
        (is_killed, Cause.EXITED, "was killed by SIGKILL (out of memory)", "killed by SIGKILL (out of memory)"),
        (cannot_start, Cause.START_FAILED, "could not be started: could not fork: Cannot allocate memory", ""),
        (does_not_start, Cause.START_FAILED, "the process did not start within 10 s", "killed by SIGKILL"),
        (
            constructor_raises,
            Cause.CONSTRUCTOR,
            "constructor of model failed: ValueError: no such model",
            "killed by SIGKILL",
        ),
        (
            is_unhealthy,
            Cause.HEALTH_CHECK,
            "failed its health check: RuntimeError: no GPU, 3 times",
            "exited with code 0",
        ),
        (hangs, Cause.HUNG, "was silent for 30 s and is killed", "killed by SIGKILL"),
        (does_not_reconfigure, Cause.RECONFIGURE, "reconfigure did not return within 60 s", "killed by SIGKILL"),
        (is_worn, Cause.RECYCLED, "a new one replaces it: its memory has grown to 2 GiB", "exited with code 0"),
        (is_updated, Cause.UPDATED, "version v2 replaces it", "exited with code 0"),
        (is_scaled_down_and_does_not_finish_in_time, Cause.SCALED_DOWN, "scaled down", "killed by SIGKILL"),
        (is_removed, Cause.REMOVED, "its deployment is removed", "exited with code 0"),
    ],
)
def test_why_a_replica_ended(story: Callable[[Scene], None], cause: Cause, reason: str, how: str) -> None:
    scene = scene_of_one()
    story(scene)
    (ended,) = scene.cluster.ended()
    assert (ended.replica_id, ended.version, ended.deployment) == (R0, "v1", MODEL)
    assert (ended.cause, ended.reason, ended.exit) == (cause, reason, how)


def test_what_is_remembered_of_it() -> None:
    scene = Scene()
    scene.deploy(deployment_spec(logging=LoggingSpec(logs_dir="/logs")))
    began = scene.now
    scene.running(R0)
    scene.wait(7.5)
    scene.send(ProcessExited(R0, "exited with code 3", exit_code=3))
    (ended,) = scene.deployment().ended
    assert ended.pid == pid_of(R0)
    assert ended.start_time_s == began + WALL_CLOCK_OFFSET
    assert ended.ended_at_s == scene.now + WALL_CLOCK_OFFSET
    assert (ended.exit_code, ended.rank, ended.logs_dir) == (3, 0, "/logs")


def test_a_reason_is_of_bounded_length() -> None:
    scene = scene_of_one()
    scene.send(StartFailed(R0, "x" * 100_000))
    (ended,) = scene.deployment().ended
    assert len(ended.reason) == 500


def test_the_last_ten_are_remembered_oldest_first_also_of_a_deployment_that_was_deleted_meanwhile() -> None:
    scene = scene_of_one()
    for number in range(OF_A_DEPLOYMENT + 2):
        while f"shop#model#r{number}" not in {view.replica_id for view in scene.deployment().replicas}:
            scene.wait_for_deadline()
        scene.running(f"shop#model#r{number}")
        scene.exited(f"shop#model#r{number}")
    expected = [f"shop#model#r{number}" for number in range(2, OF_A_DEPLOYMENT + 2)]
    assert [each.replica_id for each in scene.deployment().ended] == expected
    scene.delete()
    scene.deploy(deployment_spec())
    assert [each.replica_id for each in scene.deployment().ended] == expected


def test_the_next_controller_knows_them_and_ends_what_belongs_to_nothing() -> None:
    first = scene_of_one()
    is_killed(first)
    stray = FoundProcess("gone#d#x", DeploymentId("gone", "d"), "v1", 5, 77, "unix:/x")
    target = Target((application_spec(deployment_spec()),))
    second = Scene(recover=Recover(target, (stray,), first.cluster.ended()))
    assert second.deployment().ended == first.deployment().ended
    second.exited(stray.replica_id)
    strays = [each for each in second.cluster.ended() if each.deployment == stray.deployment]
    assert [(each.cause, each.pid) for each in strays] == [(Cause.UNKNOWN, 77)]


def test_one_that_could_not_be_taken_over() -> None:
    process = FoundProcess(R0, MODEL, "v1", 0, 77, "unix:/x")
    scene = Scene(recover=Recover(Target((application_spec(deployment_spec()),)), (process,)))
    scene.send(InitializeFailed(R0, "the connection broke"))
    scene.exited(R0)
    (ended,) = scene.deployment().ended
    assert ended.cause == Cause.NOT_TAKEN_OVER
    assert "could not be taken over" in ended.reason


def test_an_answer_that_comes_late_is_no_reason() -> None:
    scene = scene_of_one()
    scene.running(R0)
    scene.send(ReplicaInitialized(R0))
    scene.deploy(deployment_spec(num_replicas=0))
    scene.exited(R0, cause="exited with code 0")
    assert [each.cause for each in scene.deployment().ended] == [Cause.SCALED_DOWN]


def ended(number: int, deployment: int) -> EndedReplica:
    name = DeploymentId("app", f"d{deployment}")
    return EndedReplica(f"{name}#{number}", name, "v1", 1, 0.0, float(number), "exited", "exited")


def test_all_together_are_bounded_and_the_longest_quiet_are_forgotten_first() -> None:
    endings = Endings()
    deployments = OF_ALL // OF_A_DEPLOYMENT
    for number in range(OF_ALL):
        endings.add(ended(number, number % deployments))
    assert len(endings.all()) == OF_ALL
    endings.add(ended(OF_ALL, 0))  # one more where there were ten: none of another's is lost
    assert len(endings.all()) == OF_ALL
    for number in range(OF_A_DEPLOYMENT):
        endings.add(ended(OF_ALL + 1 + number, deployments))
    assert len(endings.all()) == OF_ALL
    assert endings.of(DeploymentId("app", "d1")) == ()
    assert len(endings.of(DeploymentId("app", "d0"))) == OF_A_DEPLOYMENT
    assert Endings(endings.all()).all() == endings.all()


def test_failures_are_what_nobody_asked_for() -> None:
    wanted = {Cause.RECYCLED, Cause.UPDATED, Cause.FAILED_VERSION, Cause.SCALED_DOWN, Cause.REMOVED, Cause.UNKNOWN}
    assert set(Cause) - FAILURES == wanted
