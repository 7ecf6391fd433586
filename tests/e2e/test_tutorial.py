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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder, with the model under the name by which the scripts ask for it."""
    shutil.copytree(_NATIVE / "t5-small", tmp_path / "t5-small")
    return tmp_path


@pytest.fixture
def published(folder: Path) -> Path:
    """``folder`` with the scripts as the tutorial prints them."""
    return copy_scripts(_PUBLISHED, folder)


@pytest.fixture
def native(folder: Path) -> Path:
    """``folder`` with the scripts in Salver's own imports."""
    return copy_scripts(_NATIVE, folder)


def copy_scripts(source: Path, folder: Path) -> Path:
    for script in source.glob("*.py"):
        shutil.copy(script, folder)
    return folder


@pytest.fixture
def port_8000() -> Generator[None]:
    """The tutorial's clients call port 8000: one test at a time has it, whichever process runs it."""
    with (Path(tempfile.gettempdir()) / f"salver-tests-port-8000-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def command(folder: Path) -> Generator[Callable[..., SalverRun]]:
    """``command("serve", "run", ...)`` in the user's folder, ready."""
    runs: list[SalverRun] = []

    def start(*argv: str) -> SalverRun:
        runs.append(SalverRun.start(*argv, cwd=folder, env=_OFFLINE, ready_within=_MODEL_WITHIN_S))
        return runs[-1]

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


def test_the_models_alone(published: Path) -> None:
    assert python("model.py", published) == HELLO
    assert python("summary_model.py", published) == SUMMARY


def test_one_model_served(published: Path, port_8000: None, command: Callable[..., SalverRun]) -> None:
    run = command("serve", "run", "serve_quickstart:translator_app")
    assert run.url == "http://127.0.0.1:8000/"
    assert python("model_client.py", published) == HELLO
    assert len(run.pids()["replica"]) == 2
    assert "0.2 CPU" in run.output()
    assert run.output().count(ALIAS_LINE) == 1
    run.interrupt()
    assert run.wait(20) == 0


def test_two_models_composed(published: Path, port_8000: None, command: Callable[..., SalverRun]) -> None:
    run = command("serve", "run", "serve_quickstart_composed:app")
    assert python("composed_client.py", published) == TRANSLATED_SUMMARY
    assert sorted(run.status()["applications"]["default"]["deployments"]) == ["Summarizer", "Translator"]
    assert run.output().count(ALIAS_LINE) == 1
    run.interrupt()
    assert run.wait(20) == 0


@pytest.mark.parametrize(
    ("application", "client", "printed"),
    [
        ("serve_quickstart:translator_app", "model_client.py", HELLO),
        ("serve_quickstart_composed:app", "composed_client.py", TRANSLATED_SUMMARY),
    ],
    ids=["one model", "two models"],
)
def test_the_native_form(
    native: Path, command: Callable[..., SalverRun], application: str, client: str, printed: str
) -> None:
    """On a free port, which the client is told, so that these need not wait for each other."""
    run = command("salver", "run", application, "--port", "0")
    script = (native / client).read_text()
    assert ":8000/" in script
    (native / client).write_text(script.replace(":8000/", f":{run.port}/"))
    assert python(client, native) == printed
    assert "import ray" not in run.output()
