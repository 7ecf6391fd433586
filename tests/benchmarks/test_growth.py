"""`benchmarks/growth` measures every series and writes what it promises. Says nothing about speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUN_TIMEOUT_S = 110
POINTS = {"replicas": ("1", "2"), "applications": ("1", "10"), "connections": ("1", "10"), "callers": ("1", "5")}
LATENCY = {"cpu_us", "p50_ms", "p99_ms"}
REST = {"start_s", "pss_mb", "idle_percent"}
NUMBERS = {
    "replicas": LATENCY | REST,
    "applications": LATENCY | {f"spread_{name}" for name in LATENCY} | REST,
    "connections": LATENCY | {"closed_per_s"},
    "callers": LATENCY,
}


def growth(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "growth"), *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("series", POINTS)
def test_a_series(series: str, tmp_path: Path) -> None:
    if series == "connections" and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    finished = growth("--smoke", "--series", series, "--output", str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    text = (tmp_path / "growth.json").read_text()
    assert os.uname().nodename not in text
    assert str(BENCHMARKS.parent) not in text
    (cells,) = json.loads(text)["cells"].values()
    assert tuple(cells) == POINTS[series]
    for cell in cells.values():
        (sample,) = cell["samples"]
        assert sample, cell["error"]
        assert set(sample) == NUMBERS[series]
        assert all(value > 0 for name, value in sample.items() if name != "idle_percent")
    assert (tmp_path / "growth.md").read_text() == finished.stdout.removesuffix("\n")
    if "no charts" not in finished.stderr:
        assert f">{series}</text>" in (tmp_path / "charts" / f"growth-{series}.svg").read_text()


def test_an_unknown_series_is_a_mistake() -> None:
    finished = growth("--series", "replicas,colours")
    assert finished.returncode == 2
    assert "'colours' is none of replicas, applications, connections, callers" in finished.stderr
