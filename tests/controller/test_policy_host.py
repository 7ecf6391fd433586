"""Autoscaling policies of users: real processes run them, and whatever they do, the controller learns why."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from data.scene import KEY, Scene, run
from harness.processes import descendants, is_alive, title
from harness.waiting import eventually
from salver.control.events import Event, PolicyDecided
from salver.controller import policy_host, policy_process
from salver.controller.policy_host import PolicyHost
from salver.controller.replica_client import ReplicaClient
from salver.data.channel import connect_unix
from salver.records import ApplicationSpec, AutoscalingSpec, CodeContext, DeploymentId, DeploymentSpec, PolicySpec
from salver.serve.building.autoscaling_spec import autoscaling_spec, policy_spec, under_application_policy
from salver.serve.config import AutoscalingConfig, AutoscalingPolicy
from salver.views import ApplicationView, DeploymentView, ReplicaView, ScalingView

_numbers = itertools.count()


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module of this source, with a name of its own, and gives the name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"policies_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


def code() -> CodeContext:
    return CodeContext(sys_path=tuple(sys.path))


def autoscaled(policy: str, **kwargs: object) -> AutoscalingSpec:
    config = AutoscalingConfig(
        min_replicas=0,
        max_replicas=20,
        look_back_period_s=60.0,
        policy=AutoscalingPolicy(policy_function=policy, policy_kwargs=kwargs),
    )
    return autoscaling_spec(config, code())


def application(
    *deployments: AutoscalingSpec, policy: PolicySpec | None = None, name: str = "app"
) -> ApplicationSpec:
    """Deployments ``d0``, ``d1`` and so on, the first one the ingress."""
    specs = [
        DeploymentSpec(DeploymentId(name, f"d{number}"), "v1", b"", autoscaling=autoscaling)
        for number, autoscaling in enumerate(deployments)
    ]
    return ApplicationSpec(name, None, "d0", tuple(specs), policy=policy)


class World:
    """A policy host; the test is the cluster."""

    def __init__(self) -> None:
        self.scaling: dict[str, ScalingView] = {}
        self.running: dict[str, tuple[str, ...]] = {}
        self.clients: dict[str, ReplicaClient] = {}
        self.recording: list[str] = []
        self.specs: list[ApplicationSpec] = []
        self.events: asyncio.Queue[PolicyDecided] = asyncio.Queue()
        self.host = PolicyHost(self._views, lambda _: self.recording, self.clients.get, self._tell)

    def watch(self, *specs: ApplicationSpec) -> None:
        self.specs = list(specs)
        self.host.watch(specs)

    def load(self, requests: float, key: str = "app#d0") -> None:
        self.scaling[key] = ScalingView("STABLE", 1.0, requests - 1, 1, requests=requests, low=0, high=9)

    def _tell(self, event: Event) -> None:
        assert isinstance(event, PolicyDecided)
        self.events.put_nowait(event)

    def _views(self) -> tuple[ApplicationView, ...]:
        return tuple(self._view(spec) for spec in self.specs)

    def _view(self, spec: ApplicationSpec) -> ApplicationView:
        views = tuple(self._deployment(str(each.id), each.id.name) for each in spec.deployments)
        return ApplicationView(spec.name, "RUNNING", "", None, spec.ingress, 0.0, views)

    def _deployment(self, key: str, name: str) -> DeploymentView:
        replicas = tuple(
            ReplicaView(replica_id, "RUNNING", 1, "v1", 1.0) for replica_id in self.running.get(key, (f"{key}#r0",))
        )
        return DeploymentView(name, "HEALTHY", "", "", 3, {}, replicas, {}, scaling=self.scaling.get(key))

    async def decided(self, replicas: dict[str, int]) -> PolicyDecided:
        """Return when this is what the core is told."""
        while (event := await self.events.get()).replicas != replicas:
            pass
        return event

    async def failed(self, part: str) -> PolicyDecided:
        """Return when the core is told of a failure with this in it."""
        while part not in (event := await self.events.get()).error:
            pass
        assert not event.replicas
        return event


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    here = World()
    try:
        yield here
    finally:
        await here.host.stop()
        await here.host.stop()
        assert policy_processes() == []


def policy_processes() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if title(pid).startswith("salver: policies")]


def sleepers() -> list[int]:
    """What policies have started."""
    return [pid for pid in descendants(os.getpid()) if title(pid) == "sleep 1000"]


def test_a_function_decides_and_finds_its_state_again(policies: Callable[[str], str]) -> None:
    module = policies("""
        def scale(ctx, step):
            print("a policy may print")
            calls = ctx.policy_state.get("calls", 0) + 1
            assert ctx.config.max_replicas == 20
            assert (ctx.target_num_replicas, ctx.current_num_replicas) == (3, 1)
            assert (ctx.deployment_name, ctx.app_name, str(ctx.deployment_id)) == ("d0", "app", "app#d0")
            assert (ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas) == (0, 9)
            assert ctx.total_num_requests == ctx.total_queued_requests + ctx.total_running_requests
            assert [str(replica) for replica in ctx.running_replicas] == ["app#d0#r0"]
            return ctx.total_num_requests / step + calls * 0.01, {"calls": calls}
    """)

    async def test() -> None:
        async with world() as here:
            here.load(6.0)
            here.watch(application(autoscaled(f"{module}:scale", step=2)))
            await here.decided({"app#d0": 4})  # 3.01
            for requests in range(10, 18, 2):
                here.load(float(requests))
                event = await here.decided({"app#d0": requests // 2 + 1})
                assert (event.deployments, event.error) == (("app#d0",), "")

    run(test())


def test_an_object_of_a_class_lives_as_long_as_its_process(policies: Callable[[str], str]) -> None:
    module = policies("""
        class Counts:
            def __init__(self, start=0):
                self.calls = start
            def __call__(self, ctx):
                self.calls += 1
                return self.calls, {}
    """)

    async def test() -> None:
        async with world() as here:
            spec = application(autoscaled(f"{module}:Counts", start=5))
            for number in range(6, 9):
                here.load(float(number))
                here.watch(spec)
                await here.decided({"app#d0": number})
            light = msgspec.structs.replace(spec.deployments[0].autoscaling, max_replicas=7)
            here.watch(application(light))
            await here.decided({"app#d0": 9})
            other = application(autoscaled(f"{module}:Counts", start=50))
            here.watch(other)
            await here.decided({"app#d0": 51})

    run(test())


def test_a_policy_is_asked_when_something_changes_and_by_the_clock(
    policies: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = policies("""
        def count(ctx):
            calls = ctx.policy_state.get("calls", 0) + 1
            return calls, {"calls": calls}
    """)

    async def test() -> None:
        async with world() as here:
            here.watch(application(autoscaled(f"{module}:count")))
            await here.decided({"app#d0": 1})
            await asyncio.sleep(4 * policy_host.LOOK_EVERY_S)
            assert here.events.empty()
            monkeypatch.setattr(policy_host, "ASK_EVERY_S", 0.1)
            for number in range(2, 6):
                await here.decided({"app#d0": number})

    run(test())


def test_a_policy_that_raises_is_told_and_asked_again(policies: Callable[[str], str]) -> None:
    module = policies("""
        def scale(ctx):
            return 12 / (ctx.total_num_requests - 5), {}
    """)

    async def test() -> None:
        async with world() as here:
            here.load(5.0)
            here.watch(application(autoscaled(f"{module}:scale")))
            event = await here.failed("division by zero")
            assert event.deployments == ("app#d0",)
            assert f"{module}.py, line 3)" in event.error
            before = policy_processes()
            here.load(8.0)
            assert (await here.decided({"app#d0": 4})).error == ""
            assert policy_processes() == before

    run(test())


def test_a_module_that_cannot_be_imported_there_is_told(policies: Callable[[str], str], tmp_path: Path) -> None:
    module = policies("""
        def scale(ctx):
            return 1, {}
    """)
    spec = application(autoscaled(f"{module}:scale"))
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('no licence')\n")

    async def test() -> None:
        async with world() as here:
            here.watch(spec)
            await here.failed("RuntimeError: no licence")

    run(test())


@pytest.mark.parametrize("last_act", ["time.sleep(1000)", "os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_policy_that_hangs_or_dies_gets_a_new_process(
    policies: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, last_act: str
) -> None:
    module = policies(f"""
        import os, subprocess, time
        def scale(ctx):
            if ctx.total_num_requests == 13:
                subprocess.Popen(["sleep", "1000"])
                {last_act}
            return os.getpid(), {{}}
    """)
    monkeypatch.setattr(policy_process, "ANSWER_WITHIN_S", 2.0)

    async def test() -> None:
        async with world() as here:
            here.load(1.0)
            here.watch(application(autoscaled(f"{module}:scale")))
            (first,) = (await here.events.get()).replicas.values()
            here.load(13.0)
            event = await here.failed("a new process is started")
            assert ("did not return within 2 s" if "sleep" in last_act else "process ended") in event.error
            here.load(2.0)
            while not (event := await here.events.get()).replicas:
                pass
            assert event.replicas["app#d0"] != first
            assert not is_alive(first)

    run(test())
    eventually("no process left", lambda: not sleepers())


def test_an_application_s_policy_decides_for_all_of_its_deployments(policies: Callable[[str], str]) -> None:
    module = policies("""
        def together(contexts):
            total = sum(ctx.total_num_requests for ctx in contexts.values())
            replicas, states = {}, {}
            for deployment, ctx in contexts.items():
                states[deployment] = {"calls": ctx.policy_state.get("calls", 0) + 1}
                if deployment.name == "d0":
                    replicas[deployment] = total
                elif states[deployment]["calls"] > 1:
                    replicas[deployment] = states[deployment]["calls"]
            return replicas, states
    """)

    async def test() -> None:
        async with world() as here:
            here.load(2.0, "app#d0")
            here.load(3.0, "app#d1")
            each = under_application_policy(autoscaling_spec(AutoscalingConfig(max_replicas=9), code()))
            policy = AutoscalingPolicy(policy_function=f"{module}:together")
            here.watch(application(each, each, policy=policy_spec(policy, code())))
            event = await here.decided({"app#d0": 5})
            assert event.deployments == ("app#d0", "app#d1")  # nothing about d1: it is to stay
            here.load(4.0, "app#d1")
            await here.decided({"app#d0": 6, "app#d1": 2})

    run(test())


def test_applications_have_processes_of_their_own_that_end_with_them(policies: Callable[[str], str]) -> None:
    modules = [
        policies(f"""
            import subprocess
            class Scale:
                def __init__(self):
                    self.child = subprocess.Popen(["sleep", "1000"])
                def __call__(self, ctx):
                    return {number}, {{}}
        """)
        for number in (1, 2)
    ]

    async def test() -> None:
        async with world() as here:
            one = application(autoscaled(f"{modules[0]}:Scale"), name="one")
            two = application(autoscaled(f"{modules[1]}:Scale"), name="two")
            plain = application(AutoscalingSpec(max_replicas=3), name="plain")
            here.watch(one, two, plain)
            told = [(await here.events.get()).replicas for _ in range(2)]
            assert {"one#d0": 1} in told
            assert {"two#d0": 2} in told
            assert len(policy_processes()) == len(sleepers()) == 2
            here.watch(two, plain)
            await asyncio.to_thread(eventually, "one process left", lambda: len(policy_processes()) == 1)
            here.load(3.0, "two#d0")
            await here.decided({"two#d0": 2})

    run(test())
    eventually("no process left", lambda: not sleepers())


RECORDING = """
    class Recording:
        def __call__(self): ...
        def record_autoscaling_stats(self):
            return {"tokens": 7, "depth": 0.5}
"""


def test_a_policy_sees_what_replicas_record(policies: Callable[[str], str], tmp_path: Path) -> None:
    module = policies("""
        def scale(ctx):
            tokens = {str(replica): value for replica, value in ctx.aggregated_metrics.get("tokens", {}).items()}
            raw = ctx.raw_metrics.get("depth", {})
            assert all(each.value == 0.5 and each.timestamp > 1e9 for values in raw.values() for each in values)
            return sum(tokens.values()) + 100 * len(raw), {}
    """)
    recording = policies(RECORDING)

    async def test() -> None:
        async with Scene() as scene, world() as here:
            replicas = [await scene.replica(__import__(recording).Recording) for _ in range(2)]
            for replica in replicas:
                here.clients[replica.route.replica_id] = ReplicaClient(connect_unix, replica.address, KEY)
                here.recording.append(replica.route.replica_id)
            here.recording.append("app#d#gone")
            ids = tuple(replica.route.replica_id for replica in replicas)
            here.running["app#d"] = (*ids, "app#d#silent")
            spec = application(autoscaled(f"{module}:scale"))
            deployment = msgspec.structs.replace(spec.deployments[0], id=DeploymentId("app", "d"))
            here.watch(msgspec.structs.replace(spec, deployments=(deployment,)))
            await here.decided({"app#d": 214})
            here.recording.remove(ids[0])
            here.running["app#d"] = ids[1:]
            await here.decided({"app#d": 107})
            for client in here.clients.values():
                client.close()

    run(test())


HANGING = """
import asyncio, sys
from salver.controller.policy_messages import Ask, Facts, Policies
from salver.controller.policy_process import PolicyProcess
from salver.records import AutoscalingSpec, CodeContext, DeploymentId, PolicySpec
from salver.wire.payload import dump_definition

def hang(ctx):
    import time
    print("hanging", flush=True, file=sys.stderr)
    while True:
        time.sleep(100)

async def main():
    process = PolicyProcess()
    policy = PolicySpec(dump_definition((hang, "")), "hang", code=CodeContext())
    await process.start(Policies(None, {"app#d": policy}))
    await process.ask(Ask((Facts(DeploymentId("app", "d"), AutoscalingSpec(), 1),)))

asyncio.run(main())
"""


def test_a_hanging_policy_does_not_outlive_the_controller(tmp_path: Path) -> None:
    script = tmp_path / "controller.py"
    script.write_text(HANGING)
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE) as controller:
        assert controller.stderr is not None
        assert controller.stderr.readline() == b"hanging\n"
        (host,) = descendants(controller.pid)
        controller.send_signal(signal.SIGKILL)
        eventually("the end of the host", lambda: not is_alive(host))
