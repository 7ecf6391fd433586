"""For every test: a runtime folder of its own session, and the check that it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator
from compileall import compile_dir
from pathlib import Path

import hypothesis
import pytest

import salver
from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.leaks import AsyncioComplaints, assert_nothing_left, belongings
from harness.processes import adopt_orphans
from harness.worker import WORKER, Held

# An example that fails has been there before: what fails is what was changed. SALVER_FUZZ looks for others.
hypothesis.settings.register_profile("salver", deadline=None, derandomize="SALVER_FUZZ" not in os.environ)
hypothesis.settings.load_profile("salver")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # once, before there are workers: where Python may not write bytecode,
        compile_dir(str(Path(salver.__file__).parent), quiet=2)  # thousands of processes would compile it all anew
    config.addinivalue_line("markers", "slow: takes more than ten seconds, and starts first")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what a module starts run in one worker; what takes long starts first, quick ones come last."""
    for item in items:
        if _shares(item) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=_turn)


def _shares(item: pytest.Item) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    return any(fixture.scope == "module" for definitions in fixtures for fixture in definitions)


def _turn(item: pytest.Item) -> int:
    if item.get_closest_marker("slow"):
        return 0
    return 1 if any(folder in item.path.parts for folder in ("e2e", "chaos", "cli")) else 2


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Generator[Path]:
    """XDG_RUNTIME_DIR of this test process: short, since a Unix socket's path must fit in 108 bytes."""
    adopt_orphans()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, and commands would, too
    folder = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", str(folder))
        environment.setenv("XDG_STATE_HOME", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(runtime_folder: Path) -> Generator[None]:
    """No process, descriptor, thread, task or instance folder survives the test that made it."""
    before = belongings()
    with AsyncioComplaints() as complaints:
        yield
    assert_nothing_left(before)
    assert complaints.messages == []


@pytest.fixture
def salver_run(tmp_path: Path) -> Generator[Callable[..., SalverRun]]:
    """``salver_run("app:app", "--port", "0", files={"app.py": source})``: a ``salver run`` that is ready.

    Keyword arguments: ``files`` to write first, into the folder it runs in; ``beside``, another run whose runtime
    folder it shares; ``env`` and ``ready_within`` as in ``SalverRun.start``; ``wait_ready=False`` to come back at
    once. Every run has ended when the test has.
    """
    runs: list[SalverRun] = []

    def start(
        *argv: str,
        files: dict[str, str] | None = None,
        beside: SalverRun | None = None,
        env: dict[str, str] | None = None,
        ready_within: float = 30.0,
        wait_ready: bool = True,
    ) -> SalverRun:
        write_files(tmp_path, files)
        env = {**(env or {}), "XDG_RUNTIME_DIR": str(beside.runtime)} if beside is not None else env
        run = SalverRun.launch("salver", "run", *argv, cwd=tmp_path, env=env)
        runs.append(run)
        if wait_ready:
            run.wait_ready(ready_within)
        return run

    yield start
    for run in reversed(runs):
        run.stop()


@pytest.fixture(scope="module")
def module_run(tmp_path_factory: pytest.TempPathFactory, runtime_folder: Path) -> Generator[Callable[..., SalverRun]]:
    """``module_run("app:app", files={"app.py": source})``: like ``salver_run``, until the module's last test."""
    runs: list[SalverRun] = []

    def start(*argv: str, files: dict[str, str], env: dict[str, str] | None = None) -> SalverRun:
        folder = tmp_path_factory.mktemp("app")
        write_files(folder, files)
        runs.append(SalverRun.launch("salver", "run", *argv, "--port", "0", cwd=folder, env=env))
        runs[-1].wait_ready()
        return runs[-1]

    yield start
    for run in reversed(runs):
        run.stop()


@pytest.fixture
def worker_run(salver_run: Callable[..., SalverRun]) -> Callable[..., SalverRun]:
    """``worker_run(replicas=2)``: the worker application, which answers with the pid of the replica.

    More positional arguments go to the command; ``beside`` as in ``salver_run``.
    """

    def start(*argv: str, replicas: int = 2, beside: SalverRun | None = None) -> SalverRun:
        source = WORKER.replace("REPLICAS", str(replicas))
        port = () if "--instance" in argv else ("--port", "0")
        return salver_run("worker:app", *port, *argv, files={"worker.py": source}, beside=beside)

    return start


@pytest.fixture
def hold(tmp_path: Path) -> Callable[[SalverRun], Held]:
    """``hold(run)``: a request to the worker application that runs now, and until it is released."""
    marks = (tmp_path / f"held-{number}" for number in range(1000))
    return lambda run: Held(run.url, next(marks))


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python(source)``: a script, run to its end, in a runtime folder of its own.

    Keyword arguments: ``files`` to write beside it first; ``argv`` of the script; ``env``, more variables;
    ``timeout`` in seconds, default 60.
    """

    def run(
        source: str,
        *argv: str,
        files: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        write_files(tmp_path, {**(files or {}), "driver.py": source})
        return subprocess.run(
            command_line(("python", "driver.py", *argv)),
            cwd=tmp_path,
            env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder()), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def write_files(folder: Path, files: dict[str, str] | None) -> None:
    for name, source in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
