"""Configs as the controller takes them: real build processes, real modules, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from harness.processes import descendants, is_alive
from salver.controller.api_records import Declaration
from salver.controller.declarations import Declarations
from salver.controller.declared_state import BuildState
from salver.controller.refusals import ConfigRefused
from salver.errors import ServeException
from salver.records import ApplicationSpec, JsonDict

from .declaring_scene import SHOP, Instance, app, config, pids_in, run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "shop.py").write_text(SHOP)
    return Instance(tmp_path)


def test_what_is_declared_is_built_and_deployed(instance: Instance, capfd: pytest.CaptureFixture[str]) -> None:
    till = {"name": "Till", "num_replicas": 3, "user_config": {"a": 1}}
    args = {"n": 3, "text": "3"}
    wanted = config(app("a", deployments=[till]), app("b", "build", args=args), target_capacity=50, logging_config={})

    async def test() -> None:
        async with instance.started() as declarations:
            accepted = await declarations.declare(wanted)
            assert accepted.warnings == ()
            assert set(declarations.builds()) <= {"a", "b"}
            await instance.built(declarations)
            assert declarations.builds() == {}
            times = {name: instance.deployed.index(name) + 1.0 for name in "ab"}
            assert declarations.declaration() == Declaration(accepted.accepted_at_s, times)
            assert declarations.config() == wanted

    run(test())
    (a,), (b,) = (instance.specs[name].deployments for name in "ab")
    assert (a.num_replicas, a.user_config, a.max_queued_requests, b.num_replicas) == (3, {"a": 1}, 9, 2)
    assert a.logging is not None
    assert a.version != b.version
    assert instance.specs["a"].config == wanted["applications"][0]
    assert instance.specs["a"].route_prefix == "/a"
    assert instance.specs["a"].code.cwd == str(instance.folder)
    assert instance.capacities == [50]
    assert (instance.to_come[0], instance.to_come[-1]) == (("/a", "/b"), ())
    assert "config accepted: a, b" in [each.message for each in instance.told]
    captured = capfd.readouterr()
    assert "words on standard output" not in captured.out
    assert "words on standard output" in captured.err


def test_the_same_config_gives_the_same_versions_until_the_code_changes(instance: Instance) -> None:
    versions: list[str] = []

    async def declare(declarations: Declarations) -> None:
        await declarations.declare(config(app("a")))
        await instance.built(declarations)
        versions.append(instance.specs["a"].deployments[0].version)

    async def test() -> None:
        async with instance.started() as declarations:
            await declare(declarations)
            await declare(declarations)
            (instance.folder / "shop.py").write_text(SHOP + "\nx = 1\n")
            await declare(declarations)

    run(test())
    assert versions[0] == versions[1] != versions[2]


def test_what_is_deleted_while_it_is_built_is_not_deployed(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("a"), app("b")))
            declarations.forget("a")
            assert "a" not in declarations.builds()
            await instance.built(declarations)

    run(test())
    assert set(instance.specs) == {"b"}


def test_a_wrong_config_changes_nothing(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("a")))
            await instance.built(declarations)
            wrong = config(app("b", deployments=[{"name": "Till", "num_replica": 1}]), target_capacity=200)
            with pytest.raises(ConfigRefused) as caught:
                await declarations.declare(wrong)
            assert caught.value.problems == (
                "applications[0].deployments[0].num_replica: there is no such option. Did you mean 'num_replicas'?",
                "target_capacity=200: must be a percentage from 0 to 100, or null",
            )
            assert declarations.config() == config(app("a"))

    run(test())
    assert (instance.deployed, instance.deleted, instance.capacities) == (["a"], [], [None])


@pytest.mark.parametrize(
    ("target", "more", "message"),
    [
        ("failing", {}, ["Traceback", 'shop.py", line', "LookupError: no such thing"]),
        ("ending", {}, ["shop:ending: its process has ended: exited with code 7"]),
        ("leaving", {}, ["SystemExit: 3"]),
        ("nothing", {}, ["shop:nothing: Module 'shop' has no attribute 'nothing'"]),
        ("app", {"args": {"n": 1}}, ["Arguments can only be passed to an application builder function"]),
        (
            "app",
            {"deployments": [{"name": "Tll"}]},
            ["deployment 'Tll': the application has none of that name; it has Till. Did you mean 'Till'?"],
        ),
        (
            "app",
            {"deployments": [{"name": "Till", "gang_scheduling_config": {"gang_size": 4}}]},
            ["deployment 'Till': num_replicas=2: must be a multiple of gang_scheduling_config.gang_size=4"],
        ),
    ],
)
def test_an_application_that_cannot_be_built_says_why_and_others_are(
    instance: Instance, target: str, more: JsonDict, message: list[str]
) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("bad", target, **more), app("good")))
            await instance.built(declarations)
            (failed,) = declarations.builds().values()
            assert failed.status == "DEPLOY_FAILED"
            assert all(each in failed.message for each in message), failed.message
            assert "/salver/" not in failed.message
        async with instance.started() as again:  # another controller knows it, too, and builds nothing again
            assert again.builds() == {"bad": failed}

    run(test())
    assert instance.deployed == ["good"]
    assert instance.to_come[-1] == (), "nobody waits for what has failed"


def test_a_declaration_is_all_that_is_wanted_of_files(instance: Instance) -> None:
    instance.specs["by-code"] = ApplicationSpec("by-code", "/by-code", "Till", ())

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("a"), app("b")))
            await instance.built(declarations)
            await declarations.declare(config(app("b")))
            await instance.built(declarations)
            assert set(instance.specs) == {"b", "by-code"}
            await declarations.delete_declared()
            assert set(instance.specs) == {"by-code"}
            assert declarations.config() is None
        async with instance.started() as again:
            assert again.config() is None

    run(test())


def test_applications_may_exchange_their_prefixes(instance: Instance) -> None:
    instance.specs["by-code"] = ApplicationSpec("by-code", "/taken", "Till", ())

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("a"), app("b"), app("c")))
            await instance.built(declarations)
            swapped = [
                {**app(name), "route_prefix": prefix} for name, prefix in (("a", "/b"), ("b", "/a"), ("c", "/taken"))
            ]
            await declarations.declare(config(*swapped))
            await instance.built(declarations)
            assert [instance.specs[name].route_prefix for name in "abc"] == ["/b", "/a", "/c"]
            assert declarations.builds() == {
                "c": BuildState("DEPLOY_FAILED", "prefix /taken is being used by 'by-code'"),
            }

    run(test())


def test_modules_of_the_same_name_and_other_variables_do_not_meet(instance: Instance) -> None:
    apps: list[JsonDict] = []
    for name, size in (("one", 1), ("two", 2)):
        folder = instance.folder / name
        folder.mkdir()
        source = "import os\nfrom salver import serve\n@serve.deployment\nclass Model:\n    pass\n"
        source += f"app = Model.options(num_replicas={size} * int(os.environ['FACTOR'])).bind()\n"
        (folder / "model.py").write_text(source)
        env = {"env_vars": {"FACTOR": "3"}, "working_dir": str(folder)}
        apps.append({"name": name, "route_prefix": f"/{name}", "import_path": "model:app", "runtime_env": env})

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(*apps))
            await instance.built(declarations)
            assert declarations.builds() == {}

    run(test())
    assert [instance.specs[name].deployments[0].num_replicas for name in ("one", "two")] == [3, 6]
    assert instance.specs["one"].code.env_vars == {"FACTOR": "3"}
    assert "FACTOR" not in os.environ


def test_a_newer_declaration_ends_an_older_one_that_builds(instance: Instance) -> None:
    pid_file = instance.folder / "pids"

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("slow", "waiting", args={"pid_file": str(pid_file)}), app("a")))
            await instance.until(lambda: "a" in instance.specs)
            pids = await pids_in(pid_file)
            with pytest.raises(ConfigRefused):
                await declarations.declare({})
            assert all(map(is_alive, pids)), "a config that is refused ends nothing"
            await declarations.declare(config(app("b")))
            await instance.built(declarations)
            assert set(instance.specs) == {"b"}
            assert not any(map(is_alive, pids)), "what user code has started goes, too"

    run(test())
    assert not descendants(os.getpid())


def test_a_controller_that_ends_in_the_middle_is_followed_by_one_that_goes_on(instance: Instance) -> None:
    pid_file = instance.folder / "pids"
    slow = app("slow", "waiting", args={"pid_file": str(pid_file)})

    async def test() -> None:
        async with instance.started() as first:
            await first.declare(config(app("a")))
            await instance.built(first)
            await first.declare(config(slow, app("b")))
            await instance.until(lambda: "b" in instance.specs)
            await pids_in(pid_file)
        assert not descendants(os.getpid())
        source = SHOP.replace("def waiting(args):", "def waiting(args):\n    return app\n\ndef not_any_more(args):")
        (instance.folder / "shop.py").write_text(source)
        deployed = len(instance.deployed)
        async with instance.started() as second:
            await instance.built(second)
            assert instance.deployed[deployed:] == ["slow"], "only what was not finished"
            assert set(instance.specs) == {"slow", "b"}
            assert second.builds() == {}

    run(test())


def test_a_build_ends_with_the_controller(instance: Instance) -> None:
    pid_file = instance.folder / "pids"
    slow = app("slow", "waiting", args={"pid_file": str(pid_file)})

    def controller() -> None:
        async def test() -> None:
            async with instance.started() as declarations:
                await declarations.declare(config(slow))
                await asyncio.Event().wait()

        asyncio.run(test())

    pid = os.fork()
    if not pid:
        controller()
        os._exit(0)
    try:
        pids = asyncio.run(pids_in(pid_file))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _, alive = psutil.wait_procs([psutil.Process(each) for each in pids if psutil.pid_exists(each)], timeout=30)
    assert not alive


def test_a_job_that_is_killed_is_said(instance: Instance) -> None:
    pid_file = instance.folder / "pids"
    slow = app("slow", "waiting", args={"pid_file": str(pid_file)})

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(slow))
            builder, sleeper = await pids_in(pid_file)
            job = psutil.Process(builder).ppid()
            os.kill(job, signal.SIGKILL)
            await instance.built(declarations)
            (failed,) = declarations.builds().values()
            assert "the process that builds has ended unexpectedly" in failed.message
            os.kill(sleeper, signal.SIGKILL)

    run(test())


def test_a_damaged_file_is_put_aside_and_said(instance: Instance) -> None:
    (instance.folder / "declared.json").write_text('{"config": ')

    async def test() -> None:
        async with instance.started() as declarations:
            assert declarations.config() is None
            await declarations.declare(config())

    run(test())
    assert "cannot be read" in instance.told[0].message
    assert (instance.folder / "declared.damaged").read_text() == '{"config": '


def test_a_config_that_cannot_be_saved_changes_nothing(instance: Instance) -> None:
    (instance.folder / "declared.new").mkdir()  # stands for a disk that takes nothing

    async def test() -> None:
        async with instance.started() as declarations:
            with pytest.raises(ServeException, match="the config cannot be saved"):
                await declarations.declare(config(app("a")))
            assert declarations.config() is None

    run(test())
    assert not instance.deployed
