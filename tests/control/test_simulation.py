"""The control core against a hostile engine: any order of deploys, faults and restarts must end well.

Hypothesis writes the story. After every event the core's invariants are checked; at the end the engine turns
fair, and what runs must be exactly what was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

from hostile_engine import BROKEN_VERSION, HostileEngine, replica_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace
from scene import application_spec, deployment_spec, drains

from salver.control.application import conflicting_application
from salver.control.cluster import Cluster
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    Event,
    Publish,
    Recover,
    SaveTarget,
    Tick,
)
from salver.records import ApplicationSpec, Target
from salver.views import ApplicationView, DeploymentView
from salver.wire.snapshot import ApplicationRoute

MAX_STEPS_TO_QUIET = 500
CHOICE = st.integers(0, 10_000)
PLANS = st.dictionaries(
    st.sampled_from(["x", "y"]),
    st.tuples(st.sampled_from(["v1", "v2", BROKEN_VERSION]), st.integers(0, 3)),
    min_size=1,
)

Item = TypeVar("Item")


def chosen(items: Sequence[Item], choice: int) -> Item:
    return items[choice % len(items)]


class ClusterMachine(RuleBasedStateMachine):
    """One controller after the other over one engine."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = HostileEngine()
        self.saved = Target()
        self.now = 0.0
        self.sound = True
        self.epochs = itertools.count(1)
        self.suffixes = itertools.count()

    # --- the controller ---

    @initialize()
    def start_controller(self) -> None:
        self.cluster = Cluster(
            epoch=next(self.epochs),
            new_suffix=lambda: f"r{next(self.suffixes)}",
            jitter=lambda: 0.5,
        )
        self.handle(Recover(self.saved, self.engine.list_processes()))

    @rule()
    def restart_controller(self) -> None:
        self.engine.lose_connection()
        self.start_controller()

    def handle(self, event: Event) -> None:
        self.sound = False
        version = self.cluster.snapshot().version
        commands = self.cluster.handle(event, self.now)
        self.cluster.validate()
        for position, command in enumerate(commands):
            match command:
                case SaveTarget(target=target):
                    assert position == 0
                    assert target != self.saved
                    self.saved = target
                case Publish(snapshot=snapshot):
                    assert position == len(commands) - 1
                    assert snapshot.version == version + 1
                case _:
                    self.engine.submit(command)
        assert self.cluster.target() == self.saved
        self.check_capacity(commands)
        self.sound = True

    def check_capacity(self, commands: list[Command]) -> None:
        """No drain leaves less serving than is wanted: only crashes cost capacity."""
        wanted = {str(d.id): d.num_replicas for app in self.saved.applications for d in app.deployments}
        serving = {route.key: len(route.replicas) for route in self.cluster.snapshot().deployments}
        for replica_id in drains(commands):
            key = replica_id.rpartition("#")[0]
            assert serving.get(key, 0) >= wanted.get(key, 0), f"draining {replica_id} cost capacity"

    # --- users ---

    @rule(app=st.sampled_from(["a", "b"]), plans=PLANS, prefix=st.sampled_from(["/", "/p", None]))
    def deploy(self, app: str, plans: dict[str, tuple[str, int]], prefix: str | None) -> None:
        deployments = [
            deployment_spec(name, version=version, num_replicas=number, app=app)
            for name, (version, number) in plans.items()
        ]
        spec = application_spec(*deployments, route_prefix=prefix)
        if conflicting_application(spec, self.cluster.target().applications) is None:
            self.handle(DeployApplication(spec))

    @precondition(lambda self: self.saved.applications)
    @rule(choice=CHOICE, number=st.integers(0, 4))
    def scale(self, choice: int, number: int) -> None:
        app = chosen(self.saved.applications, choice)
        scaled = tuple(replace(deployment, num_replicas=number) for deployment in app.deployments)
        self.handle(DeployApplication(replace(app, deployments=scaled)))

    @precondition(lambda self: self.saved.applications)
    @rule(choice=CHOICE)
    def delete(self, choice: int) -> None:
        self.handle(DeleteApplication(chosen(self.saved.applications, choice).name))

    # --- the engine, hostile ---

    @precondition(lambda self: self.engine.commands)
    @rule(choice=CHOICE, fault=st.sampled_from(["", "", "lose", "fail"]))
    def execute(self, choice: int, fault: str) -> None:
        self.engine.execute(chosen(self.engine.waiting(), choice), fault)

    @precondition(lambda self: self.engine.answers)
    @rule(choice=CHOICE, again_later=st.booleans())
    def deliver(self, choice: int, again_later: bool) -> None:
        answer = chosen(self.engine.answers, choice)
        if not again_later:
            self.engine.answers.remove(answer)
        self.handle(answer)

    @precondition(lambda self: self.engine.droppable(self.routed()))
    @rule(choice=CHOICE)
    def drop(self, choice: int) -> None:
        self.engine.answers.remove(chosen(self.engine.droppable(self.routed()), choice))

    @precondition(lambda self: self.engine.processes)
    @rule(choice=CHOICE)
    def crash(self, choice: int) -> None:
        self.engine.end(chosen(list(self.engine.processes), choice), "killed by SIGSEGV")

    @precondition(lambda self: self.cluster.next_deadline() is not None)
    @rule()
    def wait_for_deadline(self) -> None:
        self.now = max(self.now, self.cluster.next_deadline() or 0.0)
        self.handle(Tick())

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.handle(Tick())

    # --- the engine, fair ---

    @rule(turns=st.integers(1, 4), repeat=st.booleans())
    def be_fair(self, turns: int, repeat: bool) -> None:
        """Execute and deliver everything in order, even if every answer is then ``repeat``ed; what drains ends."""
        for _ in range(turns):
            while self.engine.commands:
                self.engine.execute(replica_of(self.engine.commands[0]))
            for process in [p for p in self.engine.processes.values() if p.draining]:
                self.engine.end(process.replica_id, "exited with code 0")
            answers = list(self.engine.answers)
            self.engine.answers.clear()
            for answer in answers + answers[::-1] * repeat:
                self.handle(answer)

    def teardown(self) -> None:
        if not self.sound:
            return
        for _ in range(MAX_STEPS_TO_QUIET):
            self.be_fair(turns=10, repeat=False)
            assert not self.engine.commands, f"no end of commands: {self.engine.commands}"
            if self.cluster.next_deadline() is None:
                break
            self.wait_for_deadline()
        else:
            raise AssertionError(f"no quiet after {MAX_STEPS_TO_QUIET} deadlines")
        self.check_final_state()

    # --- what must be true in the end ---

    def check_final_state(self) -> None:
        views = self.cluster.views(self.now)
        assert tuple(view.name for view in views) == tuple(app.name for app in self.saved.applications)
        for view, spec in zip(views, self.saved.applications, strict=True):
            self.check_application(view, spec)
        shown = {r.replica_id for view in views for d in view.deployments for r in d.replicas}
        assert shown == set(self.engine.processes), "a process that belongs to nothing, or one that is not there"
        assert self.routed() == set(self.engine.processes)
        slots = [process.slot for process in self.engine.processes.values()]
        assert len(slots) == len(set(slots))

    def check_application(self, view: ApplicationView, spec: ApplicationSpec) -> None:
        deployments = {deployment.name: deployment for deployment in view.deployments}
        failed = [name for name, deployment in deployments.items() if deployment.status == "DEPLOY_FAILED"]
        assert view.status == ("DEPLOY_FAILED" if self.in_target(failed, spec) else "RUNNING")
        for wanted in spec.deployments:
            found = deployments.pop(wanted.id.name)
            versions = [replica.version for replica in found.replicas]
            if found.status == "DEPLOY_FAILED":
                assert wanted.version not in versions
                assert len(versions) <= wanted.num_replicas
            else:
                assert found.status == "HEALTHY"
                assert versions == [wanted.version] * wanted.num_replicas
            self.check_versions(found)
        if not failed:
            route = ApplicationRoute(spec.name, spec.route_prefix, spec.ingress)
            assert route in self.cluster.snapshot().applications
        assert not deployments or self.in_target(failed, spec), f"not in the target, yet still here: {deployments}"

    def in_target(self, names: list[str], spec: ApplicationSpec) -> bool:
        return any(deployment.id.name in names for deployment in spec.deployments)

    def check_versions(self, view: DeploymentView) -> None:
        """What status says of a replica is what its process is."""
        for replica in view.replicas:
            process = self.engine.processes[replica.replica_id]
            assert process.constructed
            assert (process.version, process.pid) == (replica.version, replica.pid)

    def routed(self) -> set[str]:
        return {
            replica.replica_id
            for deployment in self.cluster.snapshot().deployments
            for replica in deployment.replicas
        }


ClusterMachine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSimulation = ClusterMachine.TestCase
