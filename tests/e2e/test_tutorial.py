"""The tutorial: its scripts under the names it gives, run with the commands it gives.

As published they say ``import ray`` and Ray is not installed; ``examples/tutorial`` has them with Salver's imports.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.instance import SalverRun, command_line

_REPOSITORY = Path(__file__).parents[2]
_PUBLISHED = _REPOSITORY / "tests" / "tutorial_scripts"
_NATIVE = _REPOSITORY / "examples" / "tutorial"
_MODEL_WITHIN_S = 120  # torch and transformers take seconds to import, and several processes do at once
_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # a model that is not found must fail, not be looked for elsewhere

_needs_the_libraries = pytest.mark.skipif(
    not (find_spec("torch") and find_spec("transformers")) and os.environ.get("CI") != "true",
    reason="torch and transformers are not installed (in CI this is a failure)",
)
pytestmark = [pytest.mark.tutorial, pytest.mark.timeout(300), _needs_the_libraries]

HELLO = "Bonjour monde!\n"
SUMMARY = "it was the best of times, it was worst of times .\n"
TRANSLATED_SUMMARY = "c'était le meilleur des temps, c'était le pire des temps .\n"
ALIAS_LINE = "`import ray` means Salver here (Ray is not installed)."


@pytest.fixture(params=[_PUBLISHED, _NATIVE], ids=["published", "native"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The user's folder: the scripts, and the model under the name by which they ask for it."""
    for script in request.param.glob("*.py"):
        shutil.copy(script, tmp_path)
    shutil.copytree(_NATIVE / "t5-small", tmp_path / "t5-small")
    return tmp_path


@pytest.fixture
def port_8000() -> Generator[None]:
    """The clients of the tutorial call port 8000: one test at a time has it, whichever process runs it."""
    with open(Path(tempfile.gettempdir()) / f"salver-tests-port-8000-{os.getuid()}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def serve_run(folder: Path, port_8000: None) -> Generator[Callable[[str], SalverRun]]:
    runs: list[SalverRun] = []

    def start(application: str) -> SalverRun:
        run = SalverRun.start("serve", "run", application, cwd=folder, env=_OFFLINE, ready_within=_MODEL_WITHIN_S)
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.stop()


def python(script: str, folder: Path) -> str:
    answer = subprocess.run(
        command_line(("python", script)),
        cwd=folder,
        env={**os.environ, **_OFFLINE},
        capture_output=True,
        text=True,
        timeout=_MODEL_WITHIN_S,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("folder", [_PUBLISHED], indirect=True, ids=["published"])
def test_the_models_alone(folder: Path) -> None:
    assert python("model.py", folder) == HELLO
    assert python("summary_model.py", folder) == SUMMARY


def test_one_model_served(folder: Path, serve_run: Callable[[str], SalverRun]) -> None:
    run = serve_run("serve_quickstart:translator_app")
    assert run.url == "http://127.0.0.1:8000/"
    assert python("model_client.py", folder) == HELLO
    assert len(run.pids()["replica"]) == 2
    assert "0.2 CPU" in run.output()
    assert_says_once_what_ray_means(run, folder)
    run.interrupt()
    assert run.wait(20) == 0


def test_two_models_composed(folder: Path, serve_run: Callable[[str], SalverRun]) -> None:
    run = serve_run("serve_quickstart_composed:app")
    assert python("composed_client.py", folder) == TRANSLATED_SUMMARY
    assert sorted(run.status()["applications"]["default"]["deployments"]) == ["Summarizer", "Translator"]
    assert_says_once_what_ray_means(run, folder)
    run.interrupt()
    assert run.wait(20) == 0


def assert_says_once_what_ray_means(run: SalverRun, folder: Path) -> None:
    says_ray = "import ray" in (folder / "serve_quickstart.py").read_text()
    assert run.output().count(ALIAS_LINE) == says_ray
