"""The errors a newcomer makes: each is one clear sentence, with the exit code that says whose turn it is.

Exit codes: 1 the application failed, 2 the command was wrong, 3 Salver could not start.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.instance import SalverRun, command_line, new_runtime_folder

WITHIN_S = 60

APP = """
from salver import serve

@serve.deployment
class Hello:
    def __call__(self):
        return "hello"

app = Hello.bind()
unbound = Hello
number = 5

def build_of_two(a, b):
    return app

def build_nothing(args):
    return None
"""

SalverCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def salver(tmp_path: Path) -> SalverCommand:
    """``salver("run", "app:app")`` to its end, in a folder with ``app.py`` and a runtime folder of its own."""

    def run(*argv: str, **files: str) -> subprocess.CompletedProcess[str]:
        for name, source in {"app": APP, **files}.items():
            (tmp_path / f"{name}.py").write_text(source)
        return subprocess.run(
            command_line(("salver", *argv)),
            cwd=tmp_path,
            env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    return run


def assert_fails(answer: subprocess.CompletedProcess[str], code: int, message: str, *others: str) -> None:
    """The command ended with ``code``; the last thing that it said is ``Error: `` and ``message``, a regular expression.

    ``others`` are said as well. No frame of Salver's is in anything that was said, and stdout is clean.
    """
    said = answer.stderr
    assert answer.returncode == code, said
    last = said[said.rindex("Error: ", 0, None if "\nTraceback" not in said else None) :]
    errors = re.findall(r"^Error: (.*)$", said, re.MULTILINE)
    assert errors, said
    assert re.search(message, errors[-1]), said
    for other in others:
        assert other in said, said
    assert "salver/" not in said.replace(".venv", ""), f"a frame of Salver's:\n{said}"
    assert last
    assert answer.stdout == ""
