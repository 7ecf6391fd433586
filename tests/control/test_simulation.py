"""The control core against a hostile engine: any order of deploys, faults and restarts must end well.

Hypothesis writes the story. After every event the core's invariants are checked; at the end the engine turns
fair, and what runs must be exactly what was asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from hostile_engine import BROKEN_VERSION, REFUSED_CONFIG, HostileEngine, replica_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace
from scene import application_spec, deployment_spec, drains

from harness.fuzzing import times
from salver.control.application import conflicting_application
from salver.control.cluster import Cluster
from salver.control.events import (
    Command,
    DeleteApplication,
    DeployApplication,
    Event,
    HealthChecked,
    Load,
    LoadSampled,
    Note,
    Publish,
    ReconfigureReplica,
    Recover,
    RememberEnd,
    ReplicaReconfigured,
    ReplicaResponsive,
    ReplicaSilent,
    ReplicaWorn,
    RollBack,
    SaveTarget,
    ScaleDeployment,
    SetCapacity,
    Tick,
)
from salver.records import ApplicationSpec, AutoscalingSpec, Capacity, DeploymentId, DeploymentSpec, Resources, Target
from salver.views import ApplicationView, DeploymentView, EndedReplica
from salver.wire.snapshot import ApplicationRoute

MAX_STEPS_TO_QUIET = 500
HUNG = "no sign of life"
SERVING = frozenset({"RUNNING", "RECOVERING", "UPDATING"})
CHOICE = st.integers(0, 10_000)
MACHINE = Capacity(num_cpus=4, gpus=(0, 1))
AUTOSCALING = AutoscalingSpec(min_replicas=0, max_replicas=4, upscale_delay_s=1.0, downscale_delay_s=2.0)
DEPLOYMENTS = st.fixed_dictionaries(
    {
        "version": st.sampled_from(["v1", "v2", BROKEN_VERSION]),
        "num_replicas": st.integers(0, 3),
        "user_config": st.sampled_from([None, "c1", "c2", REFUSED_CONFIG]),
        "resources": st.sampled_from(
            [
                Resources(),
                Resources(num_cpus=1),
                Resources(num_gpus=0.5),
                Resources(num_gpus=1),
                Resources(num_gpus=3),
            ]
        ),
        "rolling_update_fraction": st.sampled_from([0.2, 0.5, 1.0]),
        "autoscaling": st.sampled_from([None, None, AUTOSCALING]),
    }
)
PLANS = st.dictionaries(st.sampled_from(["x", "y"]), DEPLOYMENTS, min_size=1)

Item = TypeVar("Item")


def chosen(items: Sequence[Item], choice: int) -> Item:
    return items[choice % len(items)]


class ClusterMachine(RuleBasedStateMachine):
    """One controller after the other over one engine."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = HostileEngine(MACHINE)
        self.saved = Target()
        self.ended: list[EndedReplica] = []
        self.now = 0.0
        self.sound = True
        self.epochs = itertools.count(1)
        self.suffixes = itertools.count()
        self.sick: dict[str, int] = {}
        self.reconfigured_since: dict[str, float] = {}

    # --- the controller ---

    @initialize()
    def start_controller(self) -> None:
        self.cluster = Cluster(
            epoch=next(self.epochs),
            new_suffix=lambda: f"r{next(self.suffixes)}",
            jitter=lambda: 0.5,
            capacity=MACHINE,
        )
        self.reconfigured_since.clear()
        self.handle(Recover(self.saved, self.engine.list_processes(), tuple(self.ended)))

    @rule()
    def restart_controller(self) -> None:
        self.engine.lose_connection()
        self.start_controller()

    def handle(self, event: Event) -> None:
        self.sound = False
        if isinstance(event, ReplicaReconfigured):
            self.reconfigured_since.pop(event.replica_id, None)
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
                case Note(happening=happening):
                    assert happening.message
                case RememberEnd(ended=ended):
                    assert ended.cause
                    assert ended.reason
                    assert ended.replica_id not in {each.replica_id for each in self.ended}, "it ends once"
                    self.ended.append(ended)
                case _:
                    if isinstance(command, ReconfigureReplica):
                        self.reconfigured_since[command.replica_id] = self.now
                    self.engine.submit(command)
        assert self.cluster.target() == self.saved
        self.check_capacity(commands)
        self.sound = True

    def check_capacity(self, commands: list[Command]) -> None:
        """No drain leaves less serving than is wanted, but where there is no room: only faults cost capacity."""
        views = {f"{app.name}#{d.name}": d for app in self.cluster.views(self.now) for d in app.deployments}
        for replica_id in drains(commands):
            key = replica_id.rpartition("#")[0]
            view = views.get(key)
            if view is None or "waiting for room" in view.message or self.is_sick(replica_id):
                continue
            if any(replica.replica_id == replica_id and replica.reason == HUNG for replica in view.replicas):
                continue
            serving = sum(replica.state in SERVING for replica in view.replicas)
            wanted = view.target_num_replicas if self.is_wanted(key) else 0
            assert serving >= wanted, f"draining {replica_id} cost capacity: {view}"

    def is_wanted(self, key: str) -> bool:
        return any(str(d.id) == key for app in self.saved.applications for d in app.deployments)

    def is_sick(self, replica_id: str) -> bool:
        """It failed its health checks, or its ``reconfigure`` has not returned in time."""
        since = self.reconfigured_since.get(replica_id, math.inf)
        return self.sick.get(replica_id, 0) >= 3 or self.now - since >= deployment_spec().startup_timeout_s

    # --- users ---

    @rule(app=st.sampled_from(["a", "b"]), plans=PLANS, prefix=st.sampled_from(["/", "/p", None]))
    def deploy(self, app: str, plans: dict[str, dict[str, Any]], prefix: str | None) -> None:
        deployments = [deployment_spec(name, app=app, **options) for name, options in plans.items()]
        spec = application_spec(*deployments, route_prefix=prefix)
        if conflicting_application(spec, self.cluster.target().applications) is None:
            self.deploy_spec(spec)

    @precondition(lambda self: self.saved.applications)
    @rule(choice=CHOICE, number=st.integers(0, 4))
    def deploy_another_number(self, choice: int, number: int) -> None:
        app = chosen(self.saved.applications, choice)
        scaled = tuple(replace(deployment, num_replicas=number) for deployment in app.deployments)
        self.deploy_spec(replace(app, deployments=scaled))

    def deploy_spec(self, spec: ApplicationSpec) -> None:
        """What was asked of the control API before a deploy, by whichever controller, counts no more after it."""
        self.handle(DeployApplication(spec))
        fixed = {str(deployment.id) for deployment in spec.deployments if deployment.autoscaling is None}
        assert not fixed & self.saved.replicas.keys()

    @precondition(lambda self: self.saved.applications)
    @rule(choice=CHOICE)
    def delete(self, choice: int) -> None:
        self.handle(DeleteApplication(chosen(self.saved.applications, choice).name))

    @precondition(lambda self: self.saved.applications)
    @rule(choice=CHOICE)
    def roll_back(self, choice: int) -> None:
        app = chosen(self.saved.applications, choice)
        good = next((each for each in self.saved.last_good if each.name == app.name), None)
        self.handle(RollBack(app.name))
        if good is not None and conflicting_application(good, self.saved.applications) is None:
            assert good in self.saved.applications

    @rule(app=st.sampled_from(["a", "b"]), name=st.sampled_from(["x", "y"]), number=st.integers(0, 4))
    def scale_from_outside(self, app: str, name: str, number: int) -> None:
        self.handle(ScaleDeployment(DeploymentId(app, name), number))

    @rule(percent=st.sampled_from([None, 0.0, 50.0, 100.0]))
    def set_capacity(self, percent: float | None) -> None:
        self.handle(SetCapacity(percent))

    @rule(queued=st.integers(0, 20), running=st.integers(0, 20))
    def sample_load(self, queued: int, running: int) -> None:
        self.handle(LoadSampled({f"{app}#{name}": Load(queued, running) for app in "ab" for name in "xy"}))

    # --- replicas ---

    @precondition(lambda self: self.engine.processes)
    @rule(choice=CHOICE, hung=st.booleans())
    def fall_silent(self, choice: int, hung: bool) -> None:
        replica_id = chosen(list(self.engine.processes), choice)
        self.handle(ReplicaSilent(replica_id, HUNG if hung else "blocked", hung))

    @precondition(lambda self: self.engine.processes)
    @rule(choice=CHOICE)
    def answer_again(self, choice: int) -> None:
        self.handle(ReplicaResponsive(chosen(list(self.engine.processes), choice)))

    @precondition(lambda self: self.engine.processes)
    @rule(choice=CHOICE, times=st.integers(1, 4), healthy=st.booleans())
    def check_health(self, choice: int, times: int, healthy: bool) -> None:
        replica_id = chosen(list(self.engine.processes), choice)
        for _ in range(times):
            self.sick[replica_id] = 0 if healthy else self.sick.get(replica_id, 0) + 1
            self.handle(HealthChecked(replica_id, "" if healthy else "ValueError: sick"))

    @precondition(lambda self: self.engine.processes)
    @rule(choice=CHOICE)
    def wear_out(self, choice: int) -> None:
        self.handle(ReplicaWorn(chosen(list(self.engine.processes), choice), "it has served 1,000 requests"))

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
            for replica_id in list(self.engine.processes):
                self.handle(ReplicaResponsive(replica_id))
                self.sick[replica_id] = 0
                self.handle(HealthChecked(replica_id))
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
            views = self.cluster.views(self.now)
            raise AssertionError(f"no quiet after {MAX_STEPS_TO_QUIET} deadlines, at {self.now}: {views}")
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
        waiting = [name for name, deployment in deployments.items() if deployment.message.startswith("waiting for")]
        if self.in_target(failed, spec):
            assert view.status == "DEPLOY_FAILED"
        else:
            assert view.status == ("DEPLOYING" if self.in_target(waiting, spec) else "RUNNING") or waiting
        for wanted in spec.deployments:
            found = deployments.pop(wanted.id.name)
            versions = [replica.version for replica in found.replicas]
            if found.status == "DEPLOY_FAILED":
                assert wanted.version not in versions or wanted.user_config == REFUSED_CONFIG
                assert len(versions) <= max(found.target_num_replicas, wanted.num_replicas)
            elif wanted.id.name in waiting:
                assert wanted.resources != Resources()
            else:
                assert found.status == "HEALTHY", found
                assert versions == [wanted.version] * found.target_num_replicas
                self.check_told(found, wanted)
            self.check_versions(found)
        if not failed and not waiting:
            route = ApplicationRoute(spec.name, spec.route_prefix, spec.ingress)
            assert route in self.cluster.snapshot().applications
        assert not deployments or self.in_target(failed + waiting, spec), (
            f"not in the target, yet here: {deployments}"
        )

    def check_told(self, view: DeploymentView, wanted: DeploymentSpec) -> None:
        """Ranks are 0 to n-1, and everybody has the settings of the target."""
        processes = [self.engine.processes[replica.replica_id] for replica in view.replicas]
        assert sorted(process.rank for process in processes) == list(range(len(processes)))
        assert all(process.user_config == wanted.user_config for process in processes)

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
    max_examples=times(100),
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSimulation = ClusterMachine.TestCase
