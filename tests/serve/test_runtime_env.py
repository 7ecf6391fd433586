"""``runtime_env``: what becomes of each key, what is refused, what is kept for the next time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from harness.waiting import eventually
from harness.wheels import write_wheel
from salver.errors import ConfigurationError
from salver.records import CodeContext
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.default_runtime_env import set_default_runtime_env, under_default_runtime_env
from salver.serve.building.fingerprint import code_fingerprint
from salver.serve.runtime_env import check_runtime_env, merge_runtime_env, resolve
from salver.serve.runtime_env.cache import made_once

PACKAGES = "/usr/lib/python3/site-packages"
OFFLINE = ["--no-index"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "salver"


@pytest.fixture
def base(tmp_path: Path) -> CodeContext:
    """What an application that is built in ``tmp_path`` has."""
    return CodeContext((str(tmp_path), "/usr/lib/python3", PACKAGES), str(tmp_path), ("some:setup",))


def resolved(base: CodeContext, **env: Any) -> CodeContext:
    return resolve(env, base, lambda line: None)


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def imported(code: CodeContext, expression: str) -> str:
    """The value of ``expression`` in a process that has this environment; ``module.name`` imports the module."""
    script = (
        "import json, sys; code = json.loads(sys.argv[1]); sys.path[:0] = code; "
        f"import {expression.partition('.')[0]} as module; print(module.{expression.partition('.')[2]})"
    )
    paths = [path for path in code.sys_path if not path.startswith("/usr/lib")]
    command = [sys.executable, "-c", script, json.dumps(paths)]
    done = subprocess.run(command, cwd=code.cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- variables ------------------------------------------------------------------------------------------


def test_nothing_changes_nothing(base: CodeContext) -> None:
    assert resolved(base) == base
    assert resolved(base, env_vars=None, working_dir=None, pip=None, py_modules=None, excludes=None) == base
    assert resolved(base, env_vars={}, pip=[], py_modules=[], excludes=["*.csv"]) == base


def test_variables_are_the_bases_and_its_own(base: CodeContext) -> None:
    outer = resolved(base, env_vars={"B": "1", "A": "1"})
    assert list(outer.env_vars.items()) == [("A", "1"), ("B", "1")]  # sorted: the order must not make a version
    assert resolved(outer, env_vars={"B": "2"}).env_vars == {"A": "1", "B": "2"}
    assert outer.sys_path == base.sys_path
    assert outer.cwd == base.cwd


def test_pythonpath_is_where_modules_are_found(base: CodeContext, tmp_path: Path) -> None:
    code = resolved(base, env_vars={"PYTHONPATH": "lib:/opt/more::${PYTHONPATH}"})
    assert code.sys_path == (f"{tmp_path}/lib", "/opt/more", *base.sys_path)


# --- working_dir ----------------------------------------------------------------------------------------


def test_a_folder_is_where_code_runs_and_is_found_first(base: CodeContext, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    code = resolved(base, working_dir="project")
    assert code.cwd == f"{tmp_path}/project"
    assert code.sys_path == (f"{tmp_path}/project", *base.sys_path)
    assert code.setup == base.setup
    assert resolved(base, working_dir=str(tmp_path / "project")) == code


def test_a_zip_is_unpacked_once_for_each_content(base: CodeContext, tmp_path: Path, cache: Path) -> None:
    write_zip(tmp_path / "project.zip", {"model.py": "size = 1"})
    told: list[str] = []
    code = resolve({"working_dir": "project.zip"}, base, told.append)
    assert told == ["unpacking project.zip"]
    assert Path(code.cwd).parent == cache / "archives"
    assert imported(code, "model.size") == "1"
    assert resolve({"working_dir": "project.zip"}, base, told.append) == code
    assert len(told) == 1
    write_zip(tmp_path / "project.zip", {"model.py": "size = 2"})
    changed = resolved(base, working_dir="project.zip")
    assert changed.cwd != code.cwd
    assert imported(changed, "model.size") == "2"


@pytest.mark.parametrize("name", ["missing", "missing.zip", "file.txt", "broken.zip"])
def test_a_folder_that_cannot_be_is_named(base: CodeContext, tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "broken.zip").write_text("PK no zip")
    with pytest.raises(ConfigurationError, match=rf"runtime_env\.working_dir.*{re.escape(str(tmp_path / name))}"):
        resolved(base, working_dir=name)
    assert [path for path in cache.glob("archives/*") if path.is_dir()] == []


# --- py_modules -----------------------------------------------------------------------------------------


def test_modules_are_importable_by_their_names_and_what_lies_beside_them_is_not(
    base: CodeContext, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    (shared / "tools").mkdir(parents=True)
    (shared / "tools" / "__init__.py").write_text("from tools.inner import name")
    (shared / "tools" / "inner.py").write_text("name = 'tools'")
    (shared / "single.py").write_text("name = 'single'")
    (shared / "json.py").write_text("raise ImportError('not asked for')")
    code = resolved(base, py_modules=["shared/tools", str(shared / "single.py")])
    assert imported(code, "tools.name") == "tools"
    assert imported(code, "single.name") == "single"
    assert code.cwd == base.cwd
    (shared / "single.py").write_text("name = 'edited meanwhile'")  # used where it is
    assert imported(code, "single.name") == "edited meanwhile"


def test_a_wheel_is_a_module(base: CodeContext, tmp_path: Path) -> None:
    write_wheel(tmp_path, "boxed", "name = 'boxed'")
    assert imported(resolved(base, py_modules=["boxed-1.0-py3-none-any.whl"]), "boxed.name") == "boxed"


def test_modules_of_one_name_and_no_modules_are_refused(base: CodeContext, tmp_path: Path) -> None:
    for folder in ("a/tools", "b/tools"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="have the same name"):
        resolved(base, py_modules=["a/tools", "b/tools"])
    with pytest.raises(ConfigurationError, match=r"runtime_env\.py_modules\[0\]='c/tools': there is no /.*c/tools"):
        resolved(base, py_modules=["c/tools"])
    write_zip(tmp_path / "tools.zip", {"tools/__init__.py": ""})
    with pytest.raises(ConfigurationError, match=r"tools\.zip is not a folder, a \.py file or a \.whl file"):
        resolved(base, py_modules=["tools.zip"])


# --- pip ------------------------------------------------------------------------------------------------


def test_packages_are_installed_once_and_found_before_installed_ones(base: CodeContext, tmp_path: Path) -> None:
    write_wheel(tmp_path, "demo", "version = '1.0'")
    env = {"pip": {"packages": ["./demo-1.0-py3-none-any.whl"], "pip_install_options": OFFLINE, "pip_check": True}}
    told: list[str] = []
    code = resolve(env, base, told.append)
    assert code.sys_path[:2] == base.sys_path[:2]
    assert code.sys_path[3:] == (PACKAGES,)
    assert any("Successfully installed demo-1.0" in line for line in told), told
    assert imported(code, "demo.version") == "1.0"
    told.clear()
    assert resolve(env, base, told.append) == code
    assert told == []


def test_a_local_package_that_changed_is_another_environment(base: CodeContext, tmp_path: Path) -> None:
    pip = {
        "packages": ["demo @ file://" + str(tmp_path / "demo-1.0-py3-none-any.whl")],
        "pip_install_options": OFFLINE,
    }
    write_wheel(tmp_path, "demo", "answer = 1")
    first = resolved(base, pip=pip)
    write_wheel(tmp_path, "demo", "answer = 2")
    second = resolved(base, pip=pip)
    assert first != second
    assert (imported(first, "demo.answer"), imported(second, "demo.answer")) == ("1", "2")


BACKEND = """
import os, shutil
def build_wheel(folder, config_settings=None, metadata_directory=None):
    for left in ("build/lib/demo.py", "src/demo.egg-info/PKG-INFO"):
        os.makedirs(os.path.dirname(left))
        open(left, "w").close()
    return os.path.basename(shutil.copy("../demo-1.0-py3-none-any.whl", folder))
"""


def test_a_project_that_was_built_in_its_folder_is_the_same_as_before(base: CodeContext, tmp_path: Path) -> None:
    write_wheel(tmp_path, "demo", "version = 1")
    project = tmp_path / "project"
    project.mkdir()
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    pip = {"packages": ["./project"], "pip_install_options": OFFLINE}
    first = resolved(base, pip=pip)
    assert (project / "build").is_dir()
    assert resolved(base, pip=pip) == first
    (project / "changed.py").write_text("")
    shutil.rmtree(project / "build")
    shutil.rmtree(project / "src")
    assert resolved(base, pip=pip) != first


def test_a_requirements_file_may_refer_to_others(base: CodeContext, tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "demo", "version = 1")
    write_wheel(tmp_path / "wheels", "other", "version = 2", requires="demo")
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "requirements.txt").write_text("--no-index\n-r more.txt  # and so on\n")
    (tmp_path / "deploy" / "more.txt").write_text(f"--find-links {tmp_path}/wheels\nother==1.0\n")
    code = resolved(base, pip="deploy/requirements.txt")
    assert imported(code, "other.version") == "2"
    assert imported(code, "demo.version") == "1"
    with pytest.raises(ConfigurationError, match=r"pip='none\.txt': the requirements file cannot be read"):
        resolved(base, pip="none.txt")


def test_what_this_process_has_is_not_installed_again(base: CodeContext, tmp_path: Path) -> None:
    write_wheel(tmp_path, "demo", "import msgspec; version = msgspec.__version__", requires="msgspec")
    code = resolved(base, pip={"packages": ["./demo-1.0-py3-none-any.whl"], "pip_install_options": OFFLINE})
    assert not (Path(code.sys_path[2]) / "msgspec").exists()
    assert imported(code, "demo.version")


def test_what_cannot_be_installed_is_said_in_pips_words_and_leaves_nothing(base: CodeContext, cache: Path) -> None:
    pip = {"packages": ["no-such-thing-at-all==1"], "pip_install_options": OFFLINE}
    with pytest.raises(ConfigurationError) as caught:
        resolved(base, pip=pip)
    first = str(caught.value).splitlines()[0]
    assert first.startswith("runtime_env.pip: No matching distribution found for no-such-thing-at-all==1. `python -m")
    nowhere = ["--index-url", "http://127.0.0.1:9/simple", "--retries", "2", "--timeout", "2"]
    with pytest.raises(ConfigurationError) as caught:
        resolved(base, pip={**pip, "pip_install_options": nowhere})
    lines = str(caught.value).splitlines()
    assert "no-such-thing-at-all==1 (a package index could not be reached). `python" in lines[0]
    assert sum(line.startswith("WARNING: Retrying") for line in lines) == 1, lines
    assert [path for path in cache.glob("pip/*") if path.is_dir()] == []


def test_an_interrupted_build_is_done_again(base: CodeContext, tmp_path: Path, cache: Path) -> None:
    write_wheel(tmp_path, "demo", "version = 1")
    pip = {"packages": ["./demo-1.0-py3-none-any.whl"], "pip_install_options": OFFLINE}
    builder = subprocess.Popen(
        [sys.executable, "-c", _RESOLVE, json.dumps(pip), str(tmp_path)], start_new_session=True
    )
    eventually("the build has begun", lambda: any(cache.glob("pip/*.new-*/bin/python")), 60)
    os.killpg(builder.pid, signal.SIGKILL)
    builder.wait(10)
    assert imported(resolved(base, pip=pip), "demo.version") == "1"
    assert not any(cache.glob("pip/*.new-*"))


def test_what_a_killed_maker_has_started_does_not_write_into_the_next_one(cache: Path) -> None:
    made_in: list[Path] = []

    def make(folder: Path) -> None:
        made_in.append(folder)
        left = cache / "pip" / "name.new-of-another"
        assert not left.exists()
        left.mkdir()  # as if its pip lived on
        (folder / "done").touch()

    shutil.rmtree(made_once("pip", "name", make, print))
    assert (made_once("pip", "name", make, print) / "done").is_file()
    assert made_in[0].name != made_in[1].name


_RESOLVE = """
import json, sys
from salver.records import CodeContext
from salver.serve.runtime_env import resolve
env = {"pip": json.loads(sys.argv[1])}
code = resolve(env, CodeContext((), sys.argv[2]), lambda line: print(line, file=sys.stderr))
print(json.dumps(code.sys_path))
"""


def test_two_builders_of_one_environment_build_it_once(tmp_path: Path) -> None:
    write_wheel(tmp_path, "demo", "version = 1")
    pip = {"packages": ["./demo-1.0-py3-none-any.whl"], "pip_install_options": OFFLINE}
    command = [sys.executable, "-c", _RESOLVE, json.dumps(pip), str(tmp_path)]
    outputs: list[tuple[str, str]] = []

    def build() -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        outputs.append((done.stdout, done.stderr))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs[0][0] == outputs[1][0] != ""
    assert sum("Successfully installed" in told for _, told in outputs) == 1


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"conda": {"dependencies": []}}, "conda: is not supported by Salver: list the packages in 'pip'"),
        ({"container": {"image": "x"}}, "container: is not supported by Salver: run Salver itself in the container"),
        ({"uv": ["numpy"]}, "uv: is not supported by Salver: list the packages in 'pip'"),
        ({"workingdir": "."}, "workingdir: there is no such key. Did you mean 'working_dir'?"),
        ({"env_vars": {"A": "1", "N": 5}}, "env_vars.N=5: must be a string"),
        ({"env_vars": ["A=1"]}, "env_vars=['A=1']: must be a dict of names to strings"),
        ({"env_vars": {"A=B": "1"}}, "env_vars.A=B: is no name of a variable"),
        ({"working_dir": "s3://bucket/app.zip"}, "on this machine: download it first"),
        ({"working_dir": 7}, "working_dir=7: must be the path of a folder or a .zip file"),
        ({"py_modules": ["https://host/x.whl"]}, "py_modules[0]='https://host/x.whl': must be the path of a folder"),
        ({"py_modules": "tools"}, "py_modules='tools': must be a list"),
        ({"pip": 5}, "pip=5: must be a list of requirements, the path of a requirements file, or a dict"),
        ({"pip": ["numpy", 1]}, "pip[1]=1: must be a line of text"),
        ({"pip": {"package": []}}, "pip.package: there is no such key. Did you mean 'packages'?"),
        ({"pip": {"pip_check": True}}, "pip.packages: is required"),
        ({"pip": {"packages": [], "pip_version": "==22"}}, "pip.pip_version: there is no such key"),
        ({"excludes": "*.csv"}, "excludes='*.csv': must be a list of strings"),
    ],
)
def test_what_is_wrong_is_named_and_what_to_do(base: CodeContext, env: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_runtime_env(env)
    assert problem in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        resolve(env, base, lambda line: None)
    assert f"runtime_env.{problem}" in str(caught.value) or problem in str(caught.value)


def test_a_cache_that_others_can_write_is_not_used(base: CodeContext, tmp_path: Path, cache: Path) -> None:
    write_zip(tmp_path / "project.zip", {"model.py": ""})
    (cache / "archives").mkdir(parents=True)
    (cache / "archives").chmod(0o777)
    with pytest.raises(ConfigurationError, match="others may write there: set XDG_CACHE_HOME"):
        resolved(base, working_dir="project.zip")


# --- two environments -----------------------------------------------------------------------------------


def test_a_deployment_wins_over_its_application_key_by_key() -> None:
    application = {"working_dir": "a", "env_vars": {"A": "1", "B": "1"}, "pip": ["x"]}
    deployment = {"env_vars": {"B": "2"}, "pip": ["y"], "working_dir": None}
    merged = {"working_dir": "a", "env_vars": {"A": "1", "B": "2"}, "pip": ["y"]}
    assert merge_runtime_env(application, deployment) == merged
    assert merge_runtime_env({}, deployment) == {"env_vars": {"B": "2"}, "pip": ["y"]}
    assert merge_runtime_env(application, {}) == application
    assert merge_runtime_env({"env_vars": None}, {}) == {"env_vars": None}


def test_the_processes_default_is_below_what_an_application_says(base: CodeContext) -> None:
    application = ApplicationSettings(runtime_env={"env_vars": {"B": "2"}}, base=base)
    set_default_runtime_env({"env_vars": {"A": "1", "B": "1"}})
    try:
        code, settings = under_default_runtime_env(base, application)
        here = under_default_runtime_env(base, ApplicationSettings(in_this_process=True))
    finally:
        set_default_runtime_env(None)
    assert code.env_vars == settings.runtime_env["env_vars"] == {"A": "1", "B": "2"}
    assert code.setup == base.setup
    assert here == (base, ApplicationSettings(in_this_process=True))
    assert under_default_runtime_env(base, application) == (base, application)
    with pytest.raises(ConfigurationError, match="conda: is not supported"):
        set_default_runtime_env({"conda": "env"})


# --- versions -------------------------------------------------------------------------------------------


def test_sources_that_only_a_deployment_looks_at_are_part_of_its_version(base: CodeContext, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "inner").mkdir(parents=True)
    (project / "inner" / "model.py").write_text("size = 1")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("size = 1")
    code = resolved(base, working_dir="project", py_modules=["tools"])
    before = code_fingerprint(code)
    assert code_fingerprint(code) == before
    (project / "data.csv").write_text("no source")
    assert code_fingerprint(code) == before
    (project / "inner" / "model.py").write_text("size = 2")
    edited = code_fingerprint(code)
    assert edited != before
    (tmp_path / "tools" / "__init__.py").write_text("size = 2")
    assert code_fingerprint(code) != edited


def test_links_that_go_round_in_circles_are_followed_once(base: CodeContext, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("a", "b", "c"):
        (project / name).symlink_to(project)
    (project / "model.py").write_text("size = 1")
    assert code_fingerprint(resolved(base, working_dir="project"))


def test_a_working_folder_among_installed_packages_is_still_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "site-packages" / "project"
    project.mkdir(parents=True)
    source = project / "a_model_of_the_user.py"
    source.write_text("size = 1")
    monkeypatch.syspath_prepend(str(project))
    code = CodeContext(tuple(sys.path), str(project))
    __import__("a_model_of_the_user")
    try:
        before = code_fingerprint(code)
        source.write_text("size = 2")
        assert code_fingerprint(code) != before
    finally:
        del sys.modules["a_model_of_the_user"]
