"""``import ray`` means Salver, in fresh interpreters; and ``import salver`` by itself does next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALL = "from salver.compat import ray as alias\nalias.install()\n"


def python(code: str, cwd: Path) -> str:
    """Run a program; its output. It fails on any warning, as our own tests do."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ray_serve_is_salver_serve_itself(tmp_path: Path) -> None:
    python(
        INSTALL
        + """
from ray import serve
import salver.serve, salver.serve.handle
assert serve is salver.serve
import ray
assert ray.serve is salver.serve
from ray.serve.handle import DeploymentHandle
assert DeploymentHandle is salver.serve.handle.DeploymentHandle
import ray.serve.handle
assert ray.serve.handle is salver.serve.handle
from ray.serve.exceptions import BackPressureError
import salver.errors
assert BackPressureError is salver.errors.BackPressureError

@serve.deployment
class Model:
    pass

from salver.serve.deployment import Application
assert isinstance(Model.bind(), Application)
""",
        tmp_path,
    )


def test_ray_exceptions_are_what_is_raised_here(tmp_path: Path) -> None:
    python(
        INSTALL
        + """
import ray
import salver.errors
assert ray.exceptions.RayActorError is salver.errors.ReplicaUnavailableError
from ray.exceptions import GetTimeoutError, RayTaskError, TaskCancelledError
assert RayTaskError is salver.errors.RemoteException
assert TaskCancelledError is salver.errors.RequestCancelledError
assert GetTimeoutError is TimeoutError
assert not hasattr(ray, "remote")
""",
        tmp_path,
    )


def test_the_real_modules_keep_their_own_names_and_specs(tmp_path: Path) -> None:
    python(
        INSTALL
        + """
import importlib, pickle
import ray.serve.handle
import salver.serve
import salver.serve.handle as real
assert real.__name__ == real.__spec__.name == "salver.serve.handle"
assert salver.serve.__spec__.name == salver.serve.__name__ == "salver.serve"
assert salver.serve.__spec__.submodule_search_locations == list(salver.serve.__path__)
assert real.__package__ == real.__spec__.parent == "salver.serve"
assert importlib.import_module("ray.serve.handle") is importlib.import_module("salver.serve.handle") is real
assert pickle.loads(pickle.dumps(real.DeploymentHandle)) is real.DeploymentHandle
assert b"ray" not in pickle.dumps(real.DeploymentHandle)
from importlib import resources
assert resources.files("salver.serve").joinpath("handle.py").is_file()
""",
        tmp_path,
    )


def test_the_order_of_imports_does_not_matter(tmp_path: Path) -> None:
    python(
        "import salver.serve.handle\n"
        + INSTALL
        + "import ray.serve.handle\nassert ray.serve.handle is salver.serve.handle",
        tmp_path,
    )


def test_what_ray_serve_has_and_we_do_not_is_an_import_error(tmp_path: Path) -> None:
    output = python(
        INSTALL
        + """
import ray
for statement in (
    "import ray.serve.nope",
    "from ray.serve import nope",
    "from ray.serve.handle import nope",
    "import ray.data",
    "from ray import nope",
    "import ray.serve.handle.nope",
):
    try:
        exec(statement)
    except ImportError as error:
        print(statement, "->", type(error).__name__, getattr(error, "name", None))
    else:
        raise SystemExit(f"{statement} worked")
try:
    ray.nope
except AttributeError:
    pass
else:
    raise SystemExit("ray.nope exists")
""",
        tmp_path,
    )
    assert "import ray.serve.nope -> ModuleNotFoundError ray.serve.nope" in output.splitlines()
    assert "import ray.data -> ModuleNotFoundError ray.data" in output.splitlines()


def test_ray_itself_initializes_nothing(tmp_path: Path) -> None:
    python(
        INSTALL
        + """
import ray
assert not ray.is_initialized()
ray.init(num_cpus=4, ignore_reinit_error=True)
assert ray.is_initialized()
ray.shutdown()
assert not ray.is_initialized()
""",
        tmp_path,
    )


def test_installing_is_told_once_and_may_be_repeated(tmp_path: Path) -> None:
    output = python(
        """
from salver.compat import ray as alias
alias.install(lambda: print("first import"))
alias.install(lambda: print("never"))
print("installed")
import ray
import ray.serve
alias.install()
import importlib, sys
del sys.modules["ray"]
import ray
""",
        tmp_path,
    )
    assert output.split("\n") == ["installed", "first import", ""]


def test_an_imported_ray_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("real = True\n")
    python(
        """
import ray
from salver.compat import ray as alias
assert alias.ray_is_installed()
try:
    alias.install()
except ImportError as error:
    assert "Ray has been imported already" in str(error)
else:
    raise SystemExit("it was replaced")
import ray
assert ray.real
""",
        tmp_path,
    )


def test_an_installed_ray_that_was_not_imported_yet_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise SystemExit('the real one was imported')\n")
    python(INSTALL + "from ray import serve\nimport salver.serve\nassert serve is salver.serve", tmp_path)


def test_ray_is_not_taken_for_installed(tmp_path: Path) -> None:
    assert python("from salver.compat import ray\nprint(ray.ray_is_installed())", tmp_path) == "False\n"


def test_importing_salver_is_quiet_and_light(tmp_path: Path) -> None:
    """No thread, no logging configuration, no signal handler, and none of the heavy or foreign packages."""
    python(
        """
import logging, signal, sys, threading, warnings, os
signals = [signal.getsignal(number) for number in signal.valid_signals()]
folders = sorted(os.listdir("."))
import salver
from salver import serve
import salver.compat.ray
assert threading.active_count() == 1
assert logging.root.handlers == [] and logging.root.level == logging.WARNING
for name in ("salver", "salver.serve", "ray.serve"):
    logger = logging.getLogger(name)
    assert logger.handlers == [] and logger.level == logging.NOTSET and logger.propagate, name
assert signals == [signal.getsignal(number) for number in signal.valid_signals()]
assert sorted(os.listdir(".")) == folders
heavy = {"ray", "fastapi", "torch", "numpy", "pandas", "transformers", "requests"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
""",
        tmp_path,
    )


def test_importing_salver_needs_no_event_loop_and_makes_none(tmp_path: Path) -> None:
    python(
        """
import asyncio
made = []
asyncio.new_event_loop, real = (lambda: made.append(1) or real()), asyncio.new_event_loop
from salver import serve

@serve.deployment
def function(request):
    return "x"

app = function.bind()
assert made == []
""",
        tmp_path,
    )
