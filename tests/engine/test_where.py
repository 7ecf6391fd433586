"""Where a replica is, asked from outside: one that cannot run Python at the time, one that cannot run at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_replica_that_does_not_answer_can_be_asked_where_it_is(tmp_path: Path) -> None:
    result = tmp_path / "result"
    host = [sys.executable, "-m", "engine.where_host", str(result)]
    done = subprocess.run(host, cwd=Path(__file__).parents[1], timeout=100, capture_output=True, text=True)
    assert result.exists(), done.stderr
    assert result.read_text() == "passed None", done.stderr
    assert done.returncode == 0
