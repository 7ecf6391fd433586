"""Scripts, standard input, notebooks: drivers as users write them, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import requests

from harness.instance import SalverRun, command_line, new_runtime_folder
from harness.waiting import eventually

WITHIN_S = 60

RunPython = Callable[..., subprocess.CompletedProcess[str]]

BY_VALUE = """
from salver import serve

factor = 10

class NoSoup(Exception):
    pass

@serve.deployment
class Model:
    def __init__(self, plus):
        self.plus = plus

    def __call__(self, x):
        return factor * x + self.plus

    def fail(self):
        raise NoSoup("for you")

serve.start(http_options={"port": 0})
handle = serve.run(Model.bind(1))
print(handle.remote(2).result())
try:
    handle.fail.remote().result()
except NoSoup as error:
    print("own class:", error, "| where:", "in fail" in str(error.__cause__))
"""

EXPECTED_BY_VALUE = "21\nown class: for you | where: True\n"


def test_code_in_a_script_is_sent_by_value(run_python: RunPython) -> None:
    answer = run_python(BY_VALUE)
    assert (answer.returncode, answer.stdout) == (0, EXPECTED_BY_VALUE), answer.stderr


def test_code_from_standard_input_is_sent_by_value(tmp_path: Path) -> None:
    answer = subprocess.run(
        command_line(("python", "-")),
        input=BY_VALUE,
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (0, EXPECTED_BY_VALUE), answer.stderr


def test_cells_of_a_notebook_are_redefined_and_run_within_a_loop(run_python: RunPython) -> None:
    """A notebook runs cells in ``__main__``, from no file, while its event loop runs."""
    answer = run_python(
        """
import __main__, asyncio

CELLS = [
    '''
from salver import serve

serve.start(http_options={"port": 0})

@serve.deployment
class Model:
    def __call__(self):
        return "first"

handle = serve.run(Model.bind())
''',
    "print(await handle.remote())",
    '''
@serve.deployment
class Model:
    def __call__(self):
        return "second"

handle = serve.run(Model.bind())
print(await handle.remote())
''',
    "serve.shutdown()",
]

async def notebook():
    import ast, inspect
    for number, cell in enumerate(CELLS):
        code = compile(cell, f"<cell {number}>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, __main__.__dict__)
        if inspect.isawaitable(result):
            await result

asyncio.run(notebook())
"""
    )
    assert (answer.returncode, answer.stdout) == (0, "first\nsecond\n"), answer.stderr


def test_modules_beside_the_script_are_imported_by_replicas(run_python: RunPython) -> None:
    model = """
from salver import serve
from package.helper import NAME

@serve.deployment
class Model:
    def __call__(self):
        return [NAME, __name__, open("data.txt").read()]

app = Model.bind()
"""
    answer = run_python(
        """
from salver import serve
from model import app

serve.start(http_options={"port": 0})
print(serve.run(app).remote().result())
""",
        files={"model.py": model, "package/__init__.py": "", "package/helper.py": "NAME = 'helped'", "data.txt": "d"},
    )
    assert (answer.returncode, answer.stdout) == (0, "['helped', 'model', 'd']\n"), answer.stderr


def test_import_ray_means_salver_where_the_script_asks_for_it(run_python: RunPython) -> None:
    answer = run_python(
        """
import salver.compat.ray
salver.compat.ray.install()

import ray
from ray import serve
from model import Model
import salver.serve

assert serve is salver.serve
ray.init()
assert ray.is_initialized()
serve.start(http_options={"port": 0})
print(serve.run(Model.bind()).remote(3).result())
ray.shutdown()
""",
        files={
            "model.py": """
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

@serve.deployment
class Model:
    def __call__(self, x):
        return x + 1
"""
        },
    )
    assert (answer.returncode, answer.stdout) == (0, "4\n"), answer.stderr


def test_a_driver_finds_the_only_running_instance_by_itself(salver_run: Callable[..., SalverRun]) -> None:
    app = """
from salver import serve

@serve.deployment
def double(x: int):
    return 2 * x

app = double.bind()
"""
    run = salver_run("app:app", "--port", "0", files={"app.py": app})
    script = """
from salver import serve

print(serve.status().applications["default"].status.value)
print(serve.get_app_handle("default").remote(4).result())
print(serve.get_deployment_handle("double", "default").remote(5).result())
"""
    answer = python_beside(run, script)
    assert (answer.returncode, answer.stdout) == (0, "RUNNING\n8\n10\n"), answer.stderr
    assert requests.get(f"{run.url}-/healthz", timeout=WITHIN_S).text == "success", "it did not end with the driver"


def python_beside(run: SalverRun, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(("python", "-c", script)),
        env={**os.environ, "XDG_RUNTIME_DIR": str(run.runtime)},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


# --- how a script ends ----------------------------------------------------------------------------------------

BLOCKING = """
import sys
import threading
import time
from salver import serve

def say_when_it_blocks(main):
    names = []
    while "_block" not in names:
        time.sleep(0.01)
        frame, names = sys._current_frames()[main], []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
    print("blocks", flush=True)

@serve.deployment
def hello():
    return "hello"

serve.start(http_options={"port": 0})
print(serve.status().instance.url, flush=True)
threading.Thread(target=say_when_it_blocks, args=(threading.get_ident(),), daemon=True).start()
serve.run(hello.bind(), blocking=True)
print("ended")
"""


@pytest.fixture
def blocking(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    """A script that stays in ``serve.run``."""
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKING],
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_a_blocking_script_serves_until_ctrl_c(blocking: subprocess.Popen[str]) -> None:
    assert blocking.stdout is not None
    url = blocking.stdout.readline().strip()
    assert blocking.stdout.readline() == "blocks\n"
    assert requests.get(url, timeout=WITHIN_S).text == "hello"
    blocking.send_signal(signal.SIGINT)
    assert blocking.wait(WITHIN_S) == 0
    assert blocking.stdout.read() == "ended\n"
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=WITHIN_S)


def test_a_script_that_is_terminated_takes_everything_with_it(blocking: subprocess.Popen[str]) -> None:
    assert blocking.stdout is not None
    url = blocking.stdout.readline().strip()
    assert blocking.stdout.readline() == "blocks\n"
    assert requests.get(url, timeout=WITHIN_S).text == "hello"
    blocking.terminate()
    assert blocking.wait(WITHIN_S) == -signal.SIGTERM
    eventually("the port is free", lambda: not answers(url))


def answers(url: str) -> bool:
    try:
        requests.get(url, timeout=WITHIN_S)
    except requests.ConnectionError:
        return False
    return True


def test_a_script_that_fails_takes_everything_with_it(run_python: RunPython) -> None:
    answer = run_python(BY_VALUE + "\nraise SystemExit(7)\n")
    assert (answer.returncode, answer.stdout) == (7, EXPECTED_BY_VALUE), answer.stderr


def test_an_exception_that_came_back_does_not_make_the_application_another_one(run_python: RunPython) -> None:
    """Its class travelled by value: its attributes are equal strings, not the same ones, and nothing has changed."""
    answer = run_python("""
from salver import serve

class Refused(Exception):
    pass

@serve.deployment
class Desk:
    def refuse(self):
        raise Refused("no")

def pids():
    return [replica.pid for replica in serve.status().applications["default"].deployments["Desk"].replicas]

serve.start(http_options={"port": 0})
handle = serve.run(Desk.bind())
before = pids()
try:
    handle.refuse.remote().result()
except Refused as error:
    print(error)
serve.run(Desk.bind())
print(pids() == before)
""")
    assert answer.stdout == "no\nTrue\n", answer.stderr
