"""`benchmarks/compare` runs every workload and writes what it promises. Says nothing about speed."""

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
RUN_TIMEOUT_S = 110
SEEN_FROM_OUTSIDE = ("start", "open", "deploys", "footprint", "array")
LOADED = ("noop", "noop_2", "composed", "chain", "fastapi", "sync", "echo_10k", "echo_1m", "echo_10m")
STREAMED = ("stream_50", "stream_1000", "batch", "overload", "idle_clients")
BARE_PEERS = ("uvicorn", "pair")
MAY_BE_NOTHING = {"kb_per_client", "further_mb", "idle_percent", "idle_percent_1", "idle_percent_2"}


def compare(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "compare"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )


def measured(folder: Path, peers: tuple[str, ...], workloads: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """A run's cells by workload and peer; checks what all reports have in common."""
    chosen = ["--peers", ",".join(peers), "--workloads", ",".join(workloads)]
    finished = compare("--smoke", *chosen, "--output", str(folder))
    assert finished.returncode == 0, finished.stderr
    text = (folder / "compare.json").read_text()
    assert os.uname().nodename not in text
    assert str(BENCHMARKS.parent) not in text
    document = json.loads(text)
    assert {"date", "load_average", "processor", "cores", "memory_gb", "system", "wrk"} == set(document["machine"])
    assert set(document["versions"]) == set(document["settings"]) == set(peers)
    assert set(document["cells"]) == set(workloads)
    assert (folder / "compare.md").read_text() == finished.stdout.removesuffix("\n")
    return document["cells"]


def assert_all_numbers(cells: dict[str, dict[str, Any]], peer: str) -> None:
    for workload, by_peer in cells.items():
        (sample,) = by_peer[peer]["samples"]
        assert sample, f"{workload} on {peer}: {by_peer[peer]['error']}"
        numbers = {name: value for name, value in sample.items() if isinstance(value, float)}
        assert numbers, workload
        for name, value in numbers.items():
            assert value > 0 or name in {"kb_per_client", "idle_percent", "further_mb"} or "idle" in name, (
                workload,
                name,
            )


def needs_wrk() -> None:
    if shutil.which("wrk") is None:
        assert_helpful_about_wrk(compare("--smoke", "--workloads", "noop"))
        pytest.skip("wrk is not installed; that the program says so was checked")


def assert_helpful_about_wrk(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == WRK_IS_MISSING_EXIT_CODE
    assert finished.stderr.splitlines() == [
        "wrk, an HTTP load generator, is missing. Debian and Ubuntu have it as a package: apt install wrk"
    ]


@pytest.mark.parametrize("workloads", [LOADED, STREAMED], ids=["loaded", "streamed"])
def test_salver_under_load(workloads: tuple[str, ...], tmp_path: Path) -> None:
    needs_wrk()
    assert_all_numbers(measured(tmp_path, ("salver",), workloads), "salver")


def test_salver_seen_from_outside(tmp_path: Path) -> None:
    cells = measured(tmp_path, ("salver",), SEEN_FROM_OUTSIDE)
    assert_all_numbers(cells, "salver")
    (sample,) = cells["footprint"]["salver"]["samples"]
    for replicas in (1, 2):
        names = [process["name"] for process in sample[f"processes_{replicas}"]]
        assert names.count("salver: replica") == replicas
        assert sample[f"pss_mb_{replicas}"] <= sample[f"rss_mb_{replicas}"]


def test_the_bare_ones_and_what_they_cannot_do(tmp_path: Path) -> None:
    needs_wrk()
    cells = measured(tmp_path, BARE_PEERS, ("noop", "echo_10k", "stream_50", "composed"))
    assert cells["composed"]["uvicorn"]["why_not"]
    del cells["composed"]["uvicorn"]
    assert_all_numbers({name: by_peer for name, by_peer in cells.items() if name != "composed"}, "uvicorn")
    assert_all_numbers(cells, "pair")


def test_every_workload_is_in_the_smoke_run() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import workloads; print(*workloads.WORKLOADS)"],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert sorted(listed.stdout.split()) == sorted(SEEN_FROM_OUTSIDE + LOADED + STREAMED)


def test_without_wrk_one_sentence_says_how_to_get_it(tmp_path: Path) -> None:
    finished = compare("--smoke", "--output", str(tmp_path), PATH=str(tmp_path))
    assert_helpful_about_wrk(finished)
    assert list(tmp_path.iterdir()) == []
