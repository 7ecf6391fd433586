"""The benchmark programs run and write what they promise. Says nothing about speed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WRK_IS_MISSING_EXIT_CODE = 2
RUN_TIMEOUT_S = 100


def run_benchmark(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


def measured(name: str, folder: Path) -> dict[str, Any]:
    """The numbers of one benchmark, run quickly; checks what all reports have in common."""
    finished = run_benchmark("run_all", "--quick", name, "--output", str(folder))
    assert finished.returncode == 0, finished.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["latest.json", "latest.md"]
    text = (folder / "latest.json").read_text()
    assert os.uname().nodename not in text
    assert str(BENCHMARKS.parent) not in text
    report = json.loads(text)
    assert {"date", "load_average", "processor", "cores", "memory_gb", "system", "versions"} == set(
        report["environment"]
    )
    assert {"python", "salver", "uvicorn", "uvloop", "wrk"} <= set(report["environment"]["versions"])
    (section,) = report["sections"]
    table = (folder / "latest.md").read_text()
    for row in section["rows"]:
        assert f"| {row['what']} | {row['value']} | {row['target']} |" in table
    return section["numbers"]


def assert_helpful_about_wrk(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == WRK_IS_MISSING_EXIT_CODE
    assert finished.stderr.splitlines() == [
        "This benchmark needs wrk, an HTTP load generator. Debian and Ubuntu have it as a package: apt install wrk"
    ]


def test_noop_measures_three_servers_at_two_loads(tmp_path: Path) -> None:
    if shutil.which("wrk") is None:
        assert_helpful_about_wrk(run_benchmark("noop.py"))
        return
    numbers = measured("noop", tmp_path)
    assert numbers["no_op_to_bare_uvicorn_ratio"] > 0
    assert numbers["composed_to_bare_uvicorn_ratio"] > 0
    assert set(numbers["rounds"]) == {"salver_noop", "salver_composed", "bare_uvicorn"}
    for loads in numbers["rounds"].values():
        assert [load["connections"] for load in loads] == [64, 1]
        for load in loads:
            assert load["requests_per_second"] > 0
            assert 0 < load["p50_ms"] <= load["p99_ms"]


@pytest.mark.parametrize("program", ["noop.py", "run_all"])
def test_without_wrk_one_sentence_says_how_to_get_it(program: str, tmp_path: Path) -> None:
    finished = run_benchmark(program, "--output", str(tmp_path), PATH=str(tmp_path))
    assert_helpful_about_wrk(finished)
    assert list(tmp_path.iterdir()) == []


def test_startup_measures_each_start_from_outside_and_from_inside(tmp_path: Path) -> None:
    numbers = measured("startup", tmp_path)
    (start,) = numbers["starts"]
    assert numbers["first_200_median_seconds"] == start["first_200_seconds"] > 0
    assert numbers["ready_line_median_seconds"] == start["ready_line_seconds"] > 0


def test_memory_accounts_for_every_process(tmp_path: Path) -> None:
    numbers = measured("memory", tmp_path)
    few, many = numbers["runs"]
    for run, replicas in ((few, 1), (many, 4)):
        roles = [process["role"] for process in run["processes"]]
        assert sorted(roles) == sorted(["salver run", "supervisor", "controller", "proxy"] + ["replica"] * replicas)
        assert all(0 < process["pss_bytes"] <= process["rss_bytes"] for process in run["processes"])
        assert run["idle_cpu_percent"] >= 0
    assert numbers["pss_bytes"] == sum(process["pss_bytes"] for process in few["processes"])
    assert numbers["pss_per_further_replica_bytes"] > 0
