"""How the work of one event grows with what there is, in calls of functions: the same on every machine."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from scene import Scene, application_spec, deployment_spec, starts

from salver.control.events import DeployApplication, Event, HealthChecked
from salver.records import Capacity

ROOMY = Capacity(num_cpus=1000)
FEW, MANY = 10, 40
LINEAR = 1.5 * MANY / FEW
"""At most so much more work with MANY: in proportion would be 4 times as much, with the square 16 times."""


def scene_with(applications: int, replicas: int = 1) -> Scene:
    """All of them run."""
    scene = Scene(capacity=ROOMY)
    for number in range(applications):
        scene.running(*starts(scene.send(deploy(number, replicas))))
    return scene


def deploy(number: int, replicas: int = 1) -> DeployApplication:
    spec = deployment_spec(app=f"app{number}", num_replicas=replicas)
    return DeployApplication(application_spec(spec, route_prefix=f"/{number}"))


def calls_for(scene: Scene, event: Event) -> int:
    """Functions that are called to handle the event."""
    calls = 0

    def count(_frame: FrameType, what: str, _argument: Any) -> None:
        nonlocal calls
        calls += what == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        scene.cluster.handle(event, scene.now)
    finally:
        sys.setprofile(before)
    return calls


def test_a_deploy_beside_many_applications() -> None:
    few, many = (calls_for(scene_with(number), deploy(number)) for number in (FEW, MANY))
    assert many < LINEAR * few


def test_a_deploy_beside_many_replicas() -> None:
    few, many = (calls_for(scene_with(1, number), deploy(1)) for number in (FEW, MANY))
    assert many < LINEAR * few


def test_that_a_healthy_replica_is_healthy_is_as_little_work_among_many() -> None:
    few, many = (calls_for(scene_with(number), HealthChecked("app0#model#r0")) for number in (1, MANY))
    assert few == many


def test_a_replica_that_is_healthy_again_is_heard() -> None:
    scene = scene_with(2)
    scene.send(HealthChecked("app0#model#r0", error="no answer"))
    scene.notes.clear()
    scene.send(HealthChecked("app0#model#r0"))
    assert [note.message for note in scene.notes] == ["passes its health check again"]
