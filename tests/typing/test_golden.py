"""Golden files for type checkers.

Every line that ends in ``# error: A | B`` is one that pyright calls an error with A in its message and mypy with B;
no other line is one. Types are checked by ``assert_type`` in the files.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOLDEN = sorted(path for path in HERE.glob("*.py") if path != Path(__file__))
CHECKERS = ("pyright", "mypy")

Messages = dict[int, str]
"""What a checker says of each line that it finds wrong."""


def pyright(path: Path, _cache: Path) -> Messages:
    done = run("pyright", "--pythonpath", sys.executable, "--outputjson", str(path))
    found: Messages = {}
    for message in json.loads(done.stdout)["generalDiagnostics"]:
        if message["severity"] == "error":
            line = message["range"]["start"]["line"] + 1
            found[line] = f"{found.get(line, '')}\n{message['message']}"
    return found


def mypy(path: Path, cache: Path) -> Messages:
    done = run("mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(cache), str(path))
    found: Messages = {}
    for line, message in re.findall(r"^[^:]+:(\d+): error: (.*)$", done.stdout, re.MULTILINE):
        found[int(line)] = f"{found.get(int(line), '')}\n{message}"
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return found


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def expected(path: Path, checker: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if "# error: " in line:
            yield number, line.partition("# error: ")[2].split(" | ")[CHECKERS.index(checker)]


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_type_checkers_say_what_the_golden_file_says(path: Path, checker: str, tmp_path: Path) -> None:
    pytest.importorskip(checker, reason="in the `test` dependency group")
    messages = {"pyright": pyright, "mypy": mypy}[checker](path, tmp_path)
    wanted = dict(expected(path, checker))
    assert {line: text for line, text in messages.items() if line not in wanted} == {}, "not expected"
    assert wanted.keys() - messages.keys() == set(), "expected on these lines, and not found"
    for line, text in wanted.items():
        assert text in messages[line]
