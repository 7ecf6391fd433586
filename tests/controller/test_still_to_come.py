"""What an instance was started to run: awaited until it is deployed once, and never again."""

from __future__ import annotations

from pathlib import Path

from salver.controller.still_to_come import StillToCome


def test_it_is_everything_until_somebody_says_what_then_less_and_then_nothing(tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []
    to_come = StillToCome(tmp_path, told.append)
    for prefixes in (("/a", "/b"), ("/b",), ("/b",), (), ("/later",)):
        to_come.are(prefixes)
    assert told == [("/",), ("/a", "/b"), ("/b",), ()]


def test_a_controller_that_is_started_again_knows_whether_it_has_come(tmp_path: Path) -> None:
    told: list[tuple[str, ...]] = []
    StillToCome(tmp_path, told.append).are(("/a",))
    StillToCome(tmp_path, told.append).are(())
    StillToCome(tmp_path, told.append).are(("/later",))
    assert told == [("/",), ("/a",), ("/",), (), ()]


def test_an_instance_that_is_to_run_nothing_awaits_nothing() -> None:
    told: list[tuple[str, ...]] = []
    StillToCome(None, told.append).are(("/a",))
    assert told == [()]
