"""Checks of configs: real build processes, real modules, and nothing changed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from harness.processes import descendants, is_alive
from salver.controller import checks as checks_module
from salver.controller.api_records import CheckAnswer
from salver.controller.checks import AT_A_TIME, Checks
from salver.controller.refusals import NoSuchCheck, Overtaken, TooManyChecks
from salver.records import ApplicationSpec, JsonDict

from .declaring_scene import SHOP, Instance, app, config, pids_in, run

pytestmark = pytest.mark.timeout(180)

COUNTED = "\nwith open(__file__ + '.imports', 'a') as imports:\n    imports.write('once ')\n"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    (tmp_path / "shop.py").write_text(SHOP + COUNTED)
    return Instance(tmp_path)


async def checked(checks: Checks, wanted: JsonDict) -> tuple[str, CheckAnswer]:
    name = checks.begin(wanted)
    return name, await checks.wait(name, 60)


def waiting(instance: Instance, number: int = 0) -> tuple[JsonDict, Path]:
    """An application whose build never ends, and where it writes that it has begun."""
    pid_file = instance.folder / f"pids{number}"
    return app("slow", "waiting", args={"pid_file": str(pid_file)}), pid_file


def test_every_mistake_has_its_place_and_nothing_is_changed(instance: Instance) -> None:
    instance.specs["by-code"] = ApplicationSpec("by-code", "/c", "Till", ())
    wrong = config(
        app("a", deployments=[{"name": "Till"}, {"name": "Tll"}, {"name": "Other", "num_replicas": 2}]),
        app("b", "nothing"),
        app("c", "failing"),
        app("d", "ending"),
        app("e", args={"n": 1}),
    )

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(app("before")))
            await instance.built(declarations)
            _, answer = await checked(declarations.checks, wrong)
            assert answer.finished
            assert (answer.progress, answer.overtaken_at_s) == ({}, None)
            found = {each.at: (each.message.splitlines()[0], each.of_config) for each in answer.mistakes}
            a = "applications[0].deployments"
            no_attribute = "Module 'shop' has no attribute 'nothing'. Did you mean 'ending'?"
            taken = "is the prefix of application 'by-code', which code has deployed: delete that first"
            it_has = "the application has none of that name; it has Till."
            not_a_builder = "Arguments can only be passed to an application builder function"
            assert found == {
                ("applications", 0, "deployments", 1, "name"): (
                    f"{a}[1].name='Tll': {it_has} Did you mean 'Till'?",
                    True,
                ),
                ("applications", 0, "deployments", 2, "name"): (f"{a}[2].name='Other': {it_has}", True),
                ("applications", 1, "import_path"): (
                    f"applications[1].import_path='shop:nothing': {no_attribute}",
                    True,
                ),
                ("applications", 2, "import_path"): ("applications[2].import_path='shop:failing': failed:", False),
                ("applications", 2, "route_prefix"): (
                    f"applications[2].route_prefix='/c': {taken}",
                    True,
                ),
                ("applications", 3, "import_path"): (
                    "applications[3].import_path='shop:ending': its process has ended: exited with code 7",
                    False,
                ),
                ("applications", 4, "args"): (
                    f"applications[4].args: {not_a_builder}, not an already built application.",
                    True,
                ),
            }
            assert "LookupError: no such thing" in next(e.message for e in answer.mistakes if "failed" in e.message)
            assert declarations.config() == config(app("before"))

    run(test())
    assert (instance.deployed, instance.deleted, set(instance.specs)) == (["before"], [], {"before", "by-code"})


def test_a_config_that_is_wrong_by_itself_is_not_built(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            _, answer = await checked(declarations.checks, config(app("a", num_replica=1)))
            (mistake,) = answer.mistakes
            assert (mistake.at, mistake.of_key, mistake.of_config) == (("applications", 0, "num_replica"), True, True)
            _, answer = await checked(declarations.checks, {})
            assert [each.message for each in answer.mistakes] == ["applications: is required"]

    run(test())
    assert not (instance.folder / "shop.py.imports").exists()


def test_what_was_checked_is_deployed_as_it_was_and_not_built_again(instance: Instance) -> None:
    wanted = config(app("a"), target_capacity=50)

    async def test() -> None:
        async with instance.started() as declarations:
            name, answer = await checked(declarations.checks, wanted)
            assert answer == CheckAnswer(True, {}, ())
            assert not instance.deployed
            source = (instance.folder / "shop.py").read_text()
            (instance.folder / "shop.py").write_text("raise RuntimeError('edited since')")
            await declarations.declare(wanted, name)
            await instance.built(declarations)
            assert declarations.builds() == {}
            with pytest.raises(NoSuchCheck):
                await declarations.checks.wait(name, 0)
            (instance.folder / "shop.py").write_text(source)
            version = instance.specs["a"].deployments[0].version
            await declarations.declare(wanted, "unknown")
            await instance.built(declarations)
            assert instance.specs["a"].deployments[0].version == version

    run(test())
    assert (instance.deployed, instance.capacities) == (["a", "a"], [50, 50])
    assert (instance.folder / "shop.py.imports").read_text() == "once once "


def test_another_config_than_was_checked_is_built(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            name, _ = await checked(declarations.checks, config(app("a")))
            await declarations.declare(config(app("b")), name)
            await instance.built(declarations)

    run(test())
    assert instance.deployed == ["b"]


def test_of_several_deploys_the_one_that_began_last_stays(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            checks = declarations.checks
            first, _ = await checked(checks, config(app("a")))
            second, _ = await checked(checks, config(app("b")))
            third, _ = await checked(checks, config(app("c")))
            accepted = await declarations.declare(config(app("b")), second)
            assert (await checks.wait(first, 0)).overtaken_at_s == accepted.accepted_at_s
            with pytest.raises(Overtaken, match=r"a later deploy, accepted at .*, has replaced this one"):
                await declarations.declare(config(app("a")), first)
            assert (await checks.wait(third, 0)).overtaken_at_s is None
            await declarations.declare(config(app("c")), third)
            await instance.built(declarations)
            assert set(instance.specs) == {"c"}

    run(test())


def test_a_check_goes_on_beside_a_build_and_ends_nothing(instance: Instance) -> None:
    slow, pid_file = waiting(instance)

    async def test() -> None:
        async with instance.started() as declarations:
            await declarations.declare(config(slow))
            pids = await pids_in(pid_file)
            _, answer = await checked(declarations.checks, config(app("a")))
            assert not answer.mistakes
            assert all(map(is_alive, pids))

    run(test())


def test_progress_is_told_and_a_check_that_nobody_asks_for_ends(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, pid_file = waiting(instance)

    async def test() -> None:
        async with instance.started() as declarations:
            name = declarations.checks.begin(config(slow))
            pids = await pids_in(pid_file)
            answer = await declarations.checks.wait(name, 0)
            assert answer == CheckAnswer(False, {"slow": "importing shop:waiting"}, ())
            monkeypatch.setattr(checks_module, "KEPT_S", 0.0)
            await declarations.checks.wait(name, 0)
            async with asyncio.timeout(60):
                while any(map(is_alive, pids)):
                    await asyncio.sleep(0.02)
            with pytest.raises(NoSuchCheck):
                await declarations.checks.wait(name, 0)

    run(test())


def test_they_are_few_at_a_time_and_end_with_the_controller(instance: Instance) -> None:
    async def test() -> None:
        async with instance.started() as declarations:
            checks = declarations.checks
            for _ in range(AT_A_TIME + 2):  # finished ones make room
                await checked(checks, {})
            slow = [waiting(instance, number) for number in range(AT_A_TIME)]
            for application, _ in slow:
                checks.begin(config(application))
            with pytest.raises(TooManyChecks):
                checks.begin(config(app("a")))
            await pids_in(slow[0][1])

    run(test())
    assert not descendants(os.getpid())


def test_a_job_that_is_killed_is_told(instance: Instance) -> None:
    slow, pid_file = waiting(instance)

    async def test() -> None:
        async with instance.started() as declarations:
            name = declarations.checks.begin(config(slow))
            builder, sleeper = await pids_in(pid_file)
            os.kill(psutil.Process(builder).ppid(), signal.SIGKILL)
            (mistake,) = (await declarations.checks.wait(name, 60)).mistakes
            assert "has ended unexpectedly" in mistake.message
            assert not mistake.of_config
            os.kill(sleeper, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(each) for each in (builder, sleeper) if psutil.pid_exists(each)], 30)

    run(test())
