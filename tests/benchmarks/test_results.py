"""Medians, ratios and verdicts over rounds; reports and charts made of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import report
from results import Machine, Results, difference_of, load, median_of, ratio_of, shown
from targets import Number, Target

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MACHINE = Machine("2026-01-01 00:00 UTC", 0.1, "A processor", 2, 8.0, "Linux 6", "4.1.0")


def three_rounds() -> Results:
    """No-op rates of Salver and bare uvicorn: the second round ran on a slow machine, mosec's failed in the third."""
    results = Results(MACHINE, rounds=3, seconds=2.0)
    for peer, rates in {"salver": (60, 30, 66), "uvicorn": (100, 40, 100), "mosec": (20, 10, None)}.items():
        results.settings[peer] = "as it comes"
        results.versions[peer] = {peer: "1.0"}
        for number, rate in enumerate(rates):
            sample = None if rate is None else {"per_s_64": float(rate), "p50_ms_1": 1.0 + number}
            results.cell("noop", peer).samples[number] = sample
    results.cell("noop", "mosec").error = "RuntimeError: no answer"
    results.cell("composed", "uvicorn").why_not = "nothing to call"
    results.cell("composed", "salver").samples[0] = {"per_s_64": 10.0}
    return results


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    results = three_rounds()
    rates = [results.series("noop", peer, "per_s_64") for peer in ("salver", "uvicorn")]
    assert rates == [[60, 30, 66], [100, 40, 100]]
    assert ratio_of(*rates) == pytest.approx(0.66)


def test_a_round_without_both_numbers_does_not_count() -> None:
    assert ratio_of([1.0, None, 3.0], [2.0, 1.0, None]) == 0.5
    assert ratio_of([1.0], [0.0]) is None
    assert difference_of([None, 0.4], [0.1, 0.1]) == pytest.approx(0.3)
    assert median_of([None, 5.0, 1.0, 3.0]) == 3.0
    assert median_of([None]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(28118.4, "28,118"), (121.6, "122"), (0.624, "0.624"), (2.0, "2.00"), (0.0, "0"), (None, "–"), (-0.5, "-0.500")],
)
def test_three_digits_are_shown(value: float | None, text: str) -> None:
    assert shown(value) == text


def test_a_target_says_what_is_wanted_and_whether_it_is_kept() -> None:
    results = three_rounds()
    bare = Target("no-op", Number("noop", "per_s_64"), 0.6, "≥", Number("noop", "per_s_64", "uvicorn"), versus="bare")
    assert (bare.goal, bare.said(results), bare.met(results)) == ("≥ 0.6 × bare", "0.660 ×", True)
    assert dataclasses.replace(bare, bound=0.7).met(results) is False
    assert dataclasses.replace(bare, sense="≤").met(results) is False
    absolute = Target("p50", Number("noop", "p50_ms_1"), 1.0, "≤", unit="ms")
    assert (absolute.goal, absolute.said(results), absolute.met(results)) == ("≤ 1 ms", "2.00 ms", False)
    slower = Target(
        "p50", Number("noop", "p50_ms_1"), 0.1, "≤", Number("noop", "p50_ms_1", "uvicorn"), "difference", "ms"
    )
    assert (slower.said(results), slower.met(results)) == ("+0.00 ms", True)
    nothing = Target("array", Number("array", "gb_per_s"), 1.0, "≥", unit="GB/s")
    assert (nothing.said(results), nothing.met(results)) == ("–", None)


def test_the_report_has_verdicts_ranges_and_reasons() -> None:
    text = report.full(three_rounds())
    assert "| no-op, 64 connections, requests/s | ≥ 0.6 × bare uvicorn | 0.660 × | ✓ |" in text
    assert "| no-op, 64 connections, requests/s | ≥ 2.5 × Mosec | 3.00 × | ✓ |" in text
    assert "≥ 6 × Ray tuned" not in text
    assert "| composed, 64 connections | ≥ 0.35 × bare uvicorn | 0.100 × | ✗ missed |" in text
    assert "| Salver | – | 2.00 | – | 60.0 | – | – |" in text
    assert "Mosec: RuntimeError: no answer." in text
    assert "bare uvicorn: nothing to call." in text
    assert [target.what for target in report.missed(three_rounds())] == ["composed, 64 connections"]


def test_the_first_column_shows_the_range() -> None:
    results = three_rounds()
    for number, rate in enumerate((10.0, 30.0, 20.0)):
        results.cell("sync", "salver").samples[number] = {"per_s_64": rate}
    assert "| Salver | 20.0 (10.0–30.0) | – | – |" in report.full(results)


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = three_rounds()
    results.save(tmp_path / "new" / "compare.json", {"targets": []})
    assert load(tmp_path / "new" / "compare.json") == results
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["compare.json"]


def test_a_page_gets_the_headline_table_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_between_markers(page, report.compact(three_rounds()))
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n\n| | Salver | Mosec | bare uvicorn |\n|---|--:|--:|--:|\n")
    assert "| no-op, 64 connections, requests/s | 60.0 | 15.0 | 100 |" in text
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="needs the lines"):
        report.write_between_markers(page, "table")


def test_charts_are_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    """In processes of their own: matplotlib keeps fonts open."""
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed (dependency group `bench`)")
    for name in ("first", "again"):
        three_rounds().save(tmp_path / name / "compare.json", {})
        command = [sys.executable, str(BENCHMARKS / "compare"), "--render-only", "--output", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, timeout=100)
    first, again = ([*(tmp_path / name / "charts").iterdir()] for name in ("first", "again"))
    assert {path.name for path in first} == {"noop.svg", "latency.svg", "composed.svg"}
    assert {path.name: path.read_bytes() for path in first} == {path.name: path.read_bytes() for path in again}
    for path in first:
        assert path.stat().st_size < 20_000
        assert ">Salver</text>" in path.read_text()


def test_a_chart_of_growth_may_have_gaps(tmp_path: Path) -> None:
    if find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed (dependency group `bench`)")
    script = (
        "import charts, pathlib; charts.lines('It grows', [1, 2, 4], {'a': [1.0, None, 3.0]}, pathlib.Path('l.svg'),"
    )
    subprocess.run(
        [sys.executable, "-c", f"{script} xlabel='replicas', ylabel='ms')"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
        check=True,
        timeout=100,
    )
    assert ">It grows</text>" in (tmp_path / "l.svg").read_text()
