"""The controller is killed again and again while it is busy: nobody who is served notices, nothing is forgotten."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from typing import Self

import pytest
from versioned import Second, Versioned

from harness.open_load import OpenLoad
from harness.own_instance import OwnInstance, own_instance
from harness.waiting import eventually
from salver.controller.client import ControlRefused, ControlUnreachable

CRASHES = int(os.environ.get("SALVER_CRASHES", "4"))
EVERY_S = 3.0
BACK_WITHIN_S = 2.0 + 2.0
"""The promise, and what a loaded test machine may add."""


@pytest.fixture
def instance() -> Generator[OwnInstance]:
    with own_instance() as started:
        yield started


class Operator:
    """Deploys, scales and deletes a second application for as long as its ``with`` block runs.

    Attributes:
        changes: how many were accepted.
        wanted: how many replicas the last of them asks for, and of which version.
    """

    def __init__(self, instance: OwnInstance) -> None:
        self._control = instance.control
        self._instance = instance
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator")
        self.changes = 0
        self.wanted = (0, "")
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.1):
                self._change(self.changes % 5)
                self.changes += 1
        except BaseException as error:
            self.error = error

    def _change(self, step: int) -> None:
        version = str(self.changes)
        if step == 4:
            self._until_accepted(lambda: self._control.delete("second", 0.0))
            self.wanted = (0, "")
        elif step == 2:
            self._until_accepted(lambda: self._control.scale("second", "Second", 3))
            self.wanted = (3, self.wanted[1])
        else:
            self._until_accepted(lambda: self._deploy(version))
            self.wanted = (2, version)  # a deploy ends what the control API was asked for before

    def _deploy(self, version: str) -> None:
        self._instance.deploy(Second.bind(version), "second", "/second", external_scaler=True)

    def _until_accepted(self, make: Callable[[], object]) -> None:
        """A controller that does not come back within 5 s is an error of the test's own bounds, not of this one."""
        for _ in range(5):
            try:
                make()
            except ControlUnreachable:
                continue
            return
        make()


@pytest.mark.slow
def test_requests_and_replicas_outlive_every_controller(instance: OwnInstance) -> None:
    instance.deploy(Versioned.bind("1"))
    assert instance.wait_settled().status == "RUNNING"
    replicas = set(instance.replicas("Versioned"))
    with OpenLoad(instance.url) as load, Operator(instance) as operator:
        for crash in range(CRASHES):
            load.wait_for(int(EVERY_S * load.rate) - 50)
            (controller,) = instance.pids("controller")
            killed_at = instance.kill(controller)
            eventually(
                "another controller has taken over and found the replicas",
                lambda dead=controller: found_by_another(instance, dead, replicas),
                BACK_WITHIN_S,
            )
            print(f"crash {crash}: back after {time.monotonic() - killed_at:.2f} s")
        operator_at = operator.changes
        eventually("one more change is accepted", lambda: operator.changes > operator_at, BACK_WITHIN_S)

    assert load.failures() == []
    assert {each.body.split(" ")[0] for each in load.results} == {"1"}
    assert operator.changes >= CRASHES
    assert set(instance.replicas("Versioned")) == replicas, "none was restarted"
    assert_as_wanted(instance, operator.wanted)
    instance.wait_nothing_leaves()


def found_by_another(instance: OwnInstance, dead: int, replicas: set[int]) -> bool:
    try:
        status = instance.control.status()
    except ControlUnreachable:
        return False
    return status.controller_pid != dead and set(instance.replicas("Versioned")) == replicas


def assert_as_wanted(instance: OwnInstance, wanted: tuple[int, str]) -> None:
    """The second application is what its last change made of it, as if no controller had died."""
    count, version = wanted
    if count == 0:
        eventually("it is gone", lambda: instance.application("second") is None, 60)
        return
    assert instance.wait_settled("second").status == "RUNNING"
    eventually("all of its replicas run", lambda: len(instance.replicas("Second", "second")) == count, 60)
    with OpenLoad(f"{instance.url}second/", rate=50) as load:
        load.wait_for(20)
    assert load.failures() == []
    assert {each.body for each in load.results} == {version}


def test_a_refusal_is_a_refusal_however_many_controllers_have_died(instance: OwnInstance) -> None:
    instance.deploy(Versioned.bind("1"))
    assert instance.wait_settled().status == "RUNNING"
    before = set(instance.replicas("Versioned"))
    for _ in range(2):
        instance.kill(instance.pids("controller")[0])
        with pytest.raises(ControlRefused):
            instance.control.scale("default", "Versioned", 5)
        with pytest.raises(ControlRefused):
            instance.control.rollback("default")
    eventually("both replicas are known again", lambda: set(instance.replicas("Versioned")) == before, 20)
