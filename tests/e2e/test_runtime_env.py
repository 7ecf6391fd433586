"""``runtime_env``: what the processes of an application and of a deployment have, and what of it makes a version."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.http import get
from harness.instance import SalverRun
from harness.wheels import write_wheel

SalverRunner = Callable[..., SalverRun]

APP = """
import os
import sys
from importlib import import_module

from salver import serve


class Inside:
    def seen(self, module=None):
        return {
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "variables": {name: os.environ.get(name) for name in ("A", "B", "C", "OMP_NUM_THREADS")},
            "value": import_module(module).value if module else None,
        }

    def __call__(self, request):
        return self.seen(request.query_params.get("module"))


def inside(name="Inside", **runtime_env):
    return serve.deployment(Inside).options(name=name, ray_actor_options={"runtime_env": runtime_env}).bind()


plain = serve.deployment(Inside).bind()
own = inside(
    env_vars={"B": "deployment", "C": "${C}:more", "OMP_NUM_THREADS": "3"},
    working_dir="project",
    py_modules=["shared/tools"],
)
packaged = inside(pip={"packages": ["./demo-1.0-py3-none-any.whl"], "pip_install_options": ["--no-index"]})
"""

FILES = {
    "app.py": APP,
    "project/settings_here.py": "value = 'project'",
    "shared/tools/__init__.py": "value = 'tools'",
}


@pytest.fixture
def run(salver_run: SalverRunner, tmp_path: Path) -> SalverRunner:
    def start(target: str, *argv: str, **options: Any) -> SalverRun:
        env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "C": "before", **options.pop("env", {})}
        port = () if "--instance" in argv else ("--port", "0")
        return salver_run(f"app:{target}", *port, *argv, files=FILES, env=env, **options)

    return start


def answer(run: SalverRun, module: str = "") -> Any:
    got = get(f"{run.url}?module={module}")
    assert got.status == 200, f"{got}\n{run.output()}"
    return json.loads(got.body)


def test_a_deployment_has_variables_folders_and_modules_of_its_own(run: SalverRunner, tmp_path: Path) -> None:
    running = run("own")
    here = answer(running, "settings_here")
    assert here["value"] == "project"
    assert here["cwd"] == str(tmp_path / "project")
    assert here["variables"] == {"A": None, "B": "deployment", "C": "before:more", "OMP_NUM_THREADS": "3"}
    assert answer(running, "tools")["value"] == "tools"


def test_an_applications_environment_is_below_that_of_its_deployments(run: SalverRunner, tmp_path: Path) -> None:
    environment = {"env_vars": {"A": "application", "B": "application"}, "py_modules": ["shared/other"]}
    (tmp_path / "shared" / "other").mkdir(parents=True)
    (tmp_path / "shared" / "other" / "__init__.py").write_text("value = 'other'")
    flags = ("--runtime-env-json", json.dumps(environment))
    own = run("own", *flags)
    assert answer(own)["variables"]["A"] == "application"
    assert answer(own)["variables"]["B"] == "deployment"
    plain = run("plain", *flags)
    assert answer(plain)["variables"]["B"] == "application"
    assert answer(plain, "other")["value"] == "other"


def test_sources_in_its_folders_are_part_of_the_version(run: SalverRunner, tmp_path: Path) -> None:
    first = run("own", "--non-blocking")
    before = answer(first, "settings_here")
    again = ("--instance", first.name, "--non-blocking")
    run("own", *again, beside=first)
    assert answer(first)["pid"] == before["pid"]
    (tmp_path / "project" / "settings_here.py").write_text("value = 'edited'")
    edited = first.cli("run", "app:own", *again)
    assert edited.returncode == 0, edited.stderr
    after = answer(first, "settings_here")
    assert after["pid"] != before["pid"]
    assert after["value"] == "edited"


def test_packages_are_installed_with_progress_and_only_once(run: SalverRunner, tmp_path: Path) -> None:
    write_wheel(tmp_path, "demo", "value = 'from a wheel'")
    first = run("packaged", ready_within=90)
    assert "Successfully installed demo-1.0" in first.output()
    assert answer(first, "demo")["value"] == "from a wheel"
    second = run("packaged", ready_within=90)
    assert "pip: " not in second.output()
    assert answer(second, "demo")["value"] == "from a wheel"


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"conda": "env"}, "runtime_env.conda: is not supported by Salver: list the packages in 'pip'"),
        ({"working_dir": "nowhere"}, "runtime_env.working_dir='nowhere': there is no "),
        ({"pip": ["not-there @ file:///not/there.whl"]}, "runtime_env.pip: "),
    ],
)
def test_what_cannot_be_is_said_and_nothing_runs(
    run: SalverRunner, environment: dict[str, Any], problem: str
) -> None:
    failed = run("plain", "--runtime-env-json", json.dumps(environment), wait_ready=False)
    assert failed.wait(60) in {1, 2}
    assert problem in failed.output()
    assert "Traceback" not in failed.output()


def test_what_ray_init_says_is_below_everything_that_a_script_deploys(
    run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    script = """
import salver.compat.ray; salver.compat.ray.install()
import ray
from ray import serve
from app import own, plain

ray.init(runtime_env={"env_vars": {"A": "job", "B": "job"}})
serve.start(http_options={"port": 0})
print(serve.run(plain, name="plain", route_prefix=None).seen.remote().result()["variables"]["B"])
variables = serve.run(own, name="own", route_prefix=None).seen.remote().result()["variables"]
print(variables["A"], variables["B"])
"""
    done = run_python(script, files=FILES, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.stdout.splitlines() == ["job", "job deployment"], done.stderr


def test_local_testing_makes_no_environment(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    script = """
import warnings; warnings.simplefilter("ignore")
from app import packaged
from salver import serve
print(serve.run(packaged, local=True).seen.remote().result()["cwd"])
"""
    done = run_python(script, files=FILES)
    assert done.returncode == 0, done.stderr
