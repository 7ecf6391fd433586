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
        "package/late.py": "WORD = 'on disk'",
    }
    run = salver_run("app:app", "--port", "0", files=files)

    def answer() -> dict[str, object]:
        found = requests.get(run.url, timeout=30)
        return found.json() if found.ok else {}

    before = answer()
    assert (before["word"], before["mark"], before["late"], before["here"]) == ("first", "one", "on disk", "app.py")

    (run.cwd / "app.py").write_text("this is no Python")
    (run.cwd / "package" / "words.py").unlink()
    os.kill(int(str(before["pid"])), signal.SIGKILL)
    after = eventually(
        "its successor answers", lambda: (found := answer()) and found["pid"] != before["pid"] and found
    )
    assert (after["word"], after["mark"]) == ("first", "one")
    assert requests.get(f"{run.url}?fail=1", timeout=30).status_code == 500
    run.wait_for_output(r'raise ValueError\("on purpose"\)  # one')

    (run.cwd / "app.py").write_text(APP.format(mark="two"))
    (run.cwd / "package" / "words.py").write_text("WORD = 'second'")
    assert run.cli("deploy", "app:app").returncode == 0
    eventually("the edit is there", lambda: answer().get("mark") == "two")
    assert run.cli("rollback", "default").returncode == 0
    eventually("the edit is undone", lambda: answer() | {"pid": 0} == before | {"pid": 0})
