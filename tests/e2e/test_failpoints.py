"""A controller that dies between any two steps: its successor ends where its users wanted to be."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import subject
from subject import Subject
from versioned import Versioned

from harness.http import get
from harness.open_load import OpenLoad
from harness.own_instance import OwnInstance, own_instance
from harness.waiting import eventually
from salver.controller.failpoints import Failpoint
from salver.views import ReplicaView

WITHIN_S = 60.0
NAME = "subject"


class Wanted(NamedTuple):
    """What there is to be of the subject; ``replicas`` is 0 when it is to be gone."""

    version: str
    replicas: int


OPERATIONS = {
    "deploy": Wanted("1", 2),
    "update": Wanted("2", 2),
    "scale up": Wanted("2", 4),
    "scale down": Wanted("2", 1),
    "delete": Wanted("2", 0),
}

NOT_REACHED: dict[Failpoint, set[str]] = {
    Failpoint.BEFORE_START: {"scale down", "delete"},
    Failpoint.AFTER_START: {"scale down", "delete"},
    Failpoint.BEFORE_INITIALIZE: {"scale down", "delete"},
    Failpoint.AFTER_DRAIN: {"deploy", "scale up"},
    Failpoint.BEFORE_KILL: {"deploy", "scale up"},
}
"""What starts nothing or stops nothing has no such step."""


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a file with the name of a place makes the controller die there."""
    folder = tmp_path / "failpoints"
    folder.mkdir()
    monkeypatch.setenv("SALVER_FAILPOINTS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(Path(subject.__file__).parent))
    return folder


@pytest.fixture
def instance(armed: Path) -> Generator[OwnInstance]:
    with own_instance() as started:
        yield started


def say(instance: OwnInstance, operation: str, wanted: Wanted) -> None:
    """As from code and from scalers."""
    if operation == "delete":
        instance.control.delete(NAME, WITHIN_S)
    elif operation.startswith("scale"):
        instance.control.scale(NAME, "Subject", wanted.replicas)
    else:
        target = Subject.options(num_replicas=wanted.replicas).bind(wanted.version)
        instance.deploy(target, NAME, "/subject", external_scaler=True)


def declare(instance: OwnInstance, operation: str, wanted: Wanted) -> None:
    """As from a config file."""
    application = {
        "name": NAME,
        "route_prefix": "/subject",
        "import_path": "subject:build",
        "args": {"version": wanted.version, "replicas": wanted.replicas},
    }
    instance.control.declare({"applications": [] if operation == "delete" else [application]})


def hold_all(instance: OwnInstance) -> list[http.client.HTTPConnection]:
    """Requests that every replica of the subject runs, and that keep it from ending before it is killed."""
    connections: list[http.client.HTTPConnection] = []
    if instance.application(NAME) is None:
        return connections
    address = instance.url.removeprefix("http://").rstrip("/")
    replicas = instance.deployment("Subject", NAME).replicas
    for _ in range(2 * len(replicas)):
        connections.append(http.client.HTTPConnection(address))
        connections[-1].request("GET", "/subject/hold")
    eventually("every replica runs one", lambda: all(each.ongoing for each in running(instance)), WITHIN_S)
    return connections


def running(instance: OwnInstance) -> list[ReplicaView]:
    return [each for each in instance.deployment("Subject", NAME).replicas if each.state == "RUNNING"]


def as_wanted(instance: OwnInstance, wanted: Wanted) -> bool:
    view = instance.application(NAME)
    if not wanted.replicas:
        return view is None
    if view is None or view.status != "RUNNING":
        return False
    (deployment,) = view.deployments
    return deployment.status == "HEALTHY" and [each.state for each in deployment.replicas] == ["RUNNING"] * wanted[1]


@pytest.mark.parametrize("place", list(Failpoint))
def test_every_operation_ends_as_asked(instance: OwnInstance, armed: Path, place: Failpoint) -> None:
    do: Callable[[OwnInstance, str, Wanted], None] = declare if place is Failpoint.DECLARED else say
    instance.deploy(Versioned.options(num_replicas=1).bind("steady"))
    instance.wait_settled()
    file = armed / place
    with OpenLoad(instance.url, rate=20) as load:
        for operation, wanted in OPERATIONS.items():
            with ExitStack() as held:
                if place is Failpoint.BEFORE_KILL:
                    for connection in hold_all(instance):
                        held.callback(connection.close)
                file.touch()
                do(instance, operation, wanted)
                if operation not in NOT_REACHED.get(place, set()):
                    eventually(f"the controller dies at {place} in {operation}", lambda: not file.exists(), WITHIN_S)
                eventually(f"{operation} is done", lambda want=wanted: as_wanted(instance, want), WITHIN_S)
            file.unlink(missing_ok=True)
            instance.wait_nothing_leaves()
            assert len(instance.pids("replica")) == 1 + wanted.replicas, operation
            if wanted.replicas:
                assert {get(f"{instance.url}subject").body for _ in range(8)} == {wanted.version}, operation
    assert load.failures() == []
