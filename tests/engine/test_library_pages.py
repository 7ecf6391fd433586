"""Giving back the pages of libraries: they are gone, and come back unchanged when they are used."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = r"""
import asyncio, hashlib, pydantic, re, ssl
from salver.engine.local.library_pages import give_back_library_pages

class Model(pydantic.BaseModel):
    number: int

def used():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssFile:\s+(\d+)", status.read())[1])

def work():
    ssl.create_default_context()
    context = hashlib.sha256(b"x" * 100_000).hexdigest()
    return Model.model_validate_json('{"number": 7}').number, context, asyncio.run(asyncio.sleep(0, "done"))

first = work()
before = used()
for _ in range(3):
    give_back_library_pages()
    assert used() < before / 2, (used(), before)
    assert work() == first
"""


def test_pages_go_and_come_back() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
