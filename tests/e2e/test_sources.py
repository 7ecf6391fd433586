"""A replica runs the code that its application was built from: after a crash, for scaling, and for a rollback."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import requests

from harness.instance import SalverRun
from harness.waiting import eventually

APP = """
import os
from pathlib import Path
from salver import serve
from package.words import WORD

@serve.deployment
class Model:
    def __call__(self, request) -> dict:
        import package.late
        if request.query_params.get("fail"):
            raise ValueError("on purpose")  # {mark}
        return dict(word=WORD, mark="{mark}", late=package.late.WORD, pid=os.getpid(), here=Path(__file__).name)

app = Model.bind()
"""


def test_what_was_deployed_is_what_starts(salver_run: Callable[..., SalverRun]) -> None:
    files = {
        "app.py": APP.format(mark="one"),
        "package/__init__.py": "",
        "package/words.py": "WORD = 'first'",
        "package/late.py": "WORD = 'deployed'",
    }
    run = salver_run("app:app", "--port", "0", files=files)

    def answer() -> dict[str, object]:
        found = requests.get(run.url, timeout=30)
        return found.json() if found.ok else {}

    before = answer()
    assert (before["word"], before["mark"], before["late"], before["here"]) == ("first", "one", "deployed", "app.py")

    (run.cwd / "app.py").write_text("this is no Python")
    (run.cwd / "package" / "words.py").unlink()
    (run.cwd / "package" / "late.py").write_text("WORD = 'edited'")
    os.kill(int(str(before["pid"])), signal.SIGKILL)
    after = eventually(
        "its successor answers", lambda: (found := answer()) and found["pid"] != before["pid"] and found
    )
    assert (after["word"], after["mark"], after["late"]) == ("first", "one", "deployed")
    assert requests.get(f"{run.url}?fail=1", timeout=30).status_code == 500
    run.wait_for_output(r'raise ValueError\("on purpose"\)  # one')

    (run.cwd / "app.py").write_text(APP.format(mark="two"))
    (run.cwd / "package" / "words.py").write_text("WORD = 'second'")
    assert run.cli("deploy", "app:app").returncode == 0
    eventually("the edit is there", lambda: answer().get("mark") == "two")
    assert run.cli("rollback", "default").returncode == 0
    eventually("the edit is undone", lambda: answer() | {"pid": 0} == before | {"pid": 0})


LAZY = """
import os
from salver import serve

@serve.deployment
class Model:
    def __init__(self) -> None:
        import weights, tools.shape
        self.known = [weights.SIZE, tools.shape.SIZE]

    def __call__(self, request) -> list:
        return [*self.known, os.getpid()]

app = Model.bind()
"""

CONFIG = """
applications:
  - name: lazy
    import_path: lazy:app
    runtime_env: {working_dir: project, py_modules: [shelf/tools]}
"""


def test_modules_that_only_the_constructor_imports_are_part_of_the_version(
    salver_run: Callable[..., SalverRun],
) -> None:
    """Of the folder of the application, and of ``py_modules``, also where no import names them."""
    files = {
        "project/lazy.py": LAZY,
        "project/weights.py": "SIZE = 1",
        "shelf/tools/__init__.py": "",
        "shelf/tools/shape.py": "from importlib import import_module\nSIZE = import_module('tools.inner').SIZE",
        "shelf/tools/inner.py": "SIZE = 1",
        "config.yaml": CONFIG,
    }
    run = salver_run("config.yaml", "--port", "0", files=files)

    def answer(sizes: list[int], before: int = 0) -> int:
        """Waits for another replica than ``before`` with these, and returns its pid."""

        def found() -> int:
            response = requests.get(run.url, timeout=30)
            *seen, pid = response.json() if response.ok else [0]
            return pid if seen == sizes and pid != before else 0

        return eventually(f"a replica has {sizes}", found, 30)

    pid = answer([1, 1])
    assert run.cli("deploy", "config.yaml").returncode == 0
    assert answer([1, 1]) == pid, "unchanged: nothing restarts"
    sizes = [1, 1]
    for number, file in enumerate(("project/weights.py", "shelf/tools/inner.py")):
        (run.cwd / file).write_text("SIZE = 2")
        os.kill(pid, signal.SIGKILL)
        pid = answer(sizes, pid)
        sizes[number] = 2
        assert run.cli("deploy", "config.yaml").returncode == 0
        pid = answer(sizes, pid)
