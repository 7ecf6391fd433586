"""An instance of the test process's own, and what it is made of: applications come from Python, faults from here."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Self

from harness.descriptors import targets_of
from harness.processes import by_role
from harness.waiting import eventually
from salver import serve
from salver.controller.client import ControlClient, ControlUnreachable
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.code_context import code_context
from salver.serve.building.graph import build_application
from salver.serve.deployment import Application
from salver.serve.session import InstanceSession, current_session
from salver.views import ApplicationView, DeploymentView, ReplicaView

SETTLED_WITHIN_S = 60.0


class OwnInstance:
    """Started by ``own_instance``.

    Attributes:
        url: of its HTTP ingress, with a slash at the end.
        control: its control API.
        supervisor_pid: its root process.
    """

    def __init__(self, session: InstanceSession) -> None:
        self.folder = session.instance.folder
        self.supervisor_pid = session.instance.info().pid
        self.control = ControlClient(session.instance.control_socket)
        self.url = serve.status().instance.url.rstrip("/") + "/"

    def pids(self, role: str) -> list[int]:
        """The living processes of that role; asks the kernel, not Salver."""
        return by_role(self.supervisor_pid)[role]

    def kill(self, pid: int) -> float:
        """SIGKILL; returns the time."""
        os.kill(pid, signal.SIGKILL)
        return time.monotonic()

    def deploy(
        self,
        target: Application,
        name: str = "default",
        route_prefix: str = "/",
        *,
        external_scaler: bool = False,
    ) -> None:
        """Say what is wanted, and do not wait for it."""
        settings = ApplicationSettings(external_scaler_enabled=external_scaler)
        spec = build_application(target, name=name, route_prefix=route_prefix, code=code_context(), settings=settings)
        self.control.deploy(spec)

    def application(self, name: str = "default") -> ApplicationView | None:
        return next((view for view in self.control.status().applications if view.name == name), None)

    def deployment(self, deployment: str, name: str = "default") -> DeploymentView:
        application = self.application(name)
        assert application is not None, name
        return next(view for view in application.deployments if view.name == deployment)

    def replicas(self, deployment: str, name: str = "default") -> dict[int, ReplicaView]:
        """Those that run, by pid."""
        replicas = self.deployment(deployment, name).replicas
        return {each.pid: each for each in replicas if each.state == "RUNNING" and each.pid is not None}

    def wait_settled(self, name: str = "default") -> ApplicationView:
        view = self.control.wait_settled(name, SETTLED_WITHIN_S)
        assert view is not None, f"{name} is not there"
        assert view.status in ("RUNNING", "DEPLOY_FAILED"), view
        return view

    def wait_nothing_leaves(self) -> None:
        """Wait until every process that the kernel shows is a replica that runs."""

        def as_told() -> bool:
            views = self.control.status().applications
            told = [each for view in views for deployment in view.deployments for each in deployment.replicas]
            return {each.pid for each in told if each.state == "RUNNING"} == set(self.pids("replica")) and all(
                each.state == "RUNNING" for each in told
            )

        eventually("every replica process runs and is known", as_told, SETTLED_WITHIN_S)

    def descriptors(self) -> Counter[tuple[str, str]]:
        """How many descriptors of each kind the processes of each role hold, together, log files aside."""
        found: Counter[tuple[str, str]] = Counter()
        for role, pids in by_role(self.supervisor_pid).items():
            for pid in pids:
                found.update((role, kind) for kind in _kinds(pid))
        return found


def _kinds(pid: int) -> list[str]:
    """What its descriptors lead to, without what makes each unique: ``socket``, ``memfd``, ``stack``."""
    # A log file is opened when there is something to say.
    targets = (target for target in targets_of(pid) if not target.endswith(".log"))
    return [re.split(r"[-:.]", os.path.basename(target))[0] for target in targets]


@contextmanager
def own_instance(**options: Any) -> Generator[OwnInstance]:
    """``serve.start`` with ``options`` until the block ends."""
    serve.start(http_options={"port": 0}, logging_config={"enable_access_log": False}, **options)
    try:
        session = current_session()
        assert isinstance(session, InstanceSession)
        yield OwnInstance(session)
    finally:
        serve.shutdown()


class FewestServing:
    """How few replicas of a deployment were ready at any time while its ``with`` block ran, as the status says.

    Attributes:
        fewest: None before the first look.
    """

    def __init__(self, instance: OwnInstance, deployment: str) -> None:
        self._instance = instance
        self._deployment = deployment
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watch {deployment}")
        self.fewest: int | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(0.05):
            try:
                serving = len(self._instance.replicas(self._deployment))
            except (ControlUnreachable, AssertionError):
                continue
            self.fewest = serving if self.fewest is None else min(self.fewest, serving)
