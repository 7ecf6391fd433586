"""What has happened: numbered, bounded, kept in a file, and never a reason to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from salver.controller.history import KEPT, History
from salver.views import Happening


def happening(message: str, app: str = "app", deployment: str = "") -> Happening:
    return Happening("deploy", message, app, deployment)


def messages(found: tuple[Happening, ...]) -> list[str]:
    return [each.message for each in found]


def test_happenings_are_numbered_and_timed() -> None:
    history = History()
    before = time.time()
    first, second = history.add(happening("one")), history.add(happening("two"))
    assert (first.number, second.number, history.last) == (1, 2, 2)
    assert before <= first.at_s <= second.at_s <= time.time()
    assert history.add(Happening("deploy", "then", at_s=5.0)).at_s == 5.0


def test_those_after_a_number_and_of_one_application_or_deployment() -> None:
    history = History()
    history.add(happening("a", "x", "d"))
    history.add(happening("b", "x", "e"))
    history.add(happening("c", "y", "d"))
    assert messages(history.after(0)) == ["a", "b", "c"]
    assert messages(history.after(1)) == ["b", "c"]
    assert messages(history.after(3)) == []
    assert messages(history.after(0, "x")) == ["a", "b"]
    assert messages(history.after(0, "x", "e")) == ["b"]
    assert messages(history.after(0, deployment="d")) == ["a", "c"]


def test_the_next_controller_goes_on_with_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = History(path)
    recorded = [first.add(happening(str(number))) for number in range(5)]
    second = History(path)
    assert second.after(0) == tuple(recorded)
    assert second.add(happening("next")).number == 6
    assert messages(History(path).after(4)) == ["4", "next"]


def test_memory_and_file_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    history = History(path)
    for number in range(3 * KEPT):
        history.add(happening(str(number)))
    assert len(history.after(0)) == KEPT
    assert history.after(0)[0].number == 2 * KEPT + 1
    assert KEPT <= len(path.read_bytes().splitlines()) <= 2 * KEPT
    assert messages(History(path).after(0)) == messages(history.after(0))


def test_of_a_long_message_the_middle_is_left_out() -> None:
    message = History().add(happening("begin" + "x" * 1_000_000 + "the error")).message
    assert len(message) == 2000
    assert message.startswith("begin")
    assert message.endswith("the error")


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"{}", b'{"kind":"dep', b"\n\n", b"x" * 200_000, b"[1]\n"])
def test_a_damaged_line_costs_no_other(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    History(path).add(happening("before"))
    with path.open("ab") as file:
        file.write(damage)
    history = History(path)
    assert messages(history.after(0)) == ["before"]
    history.add(happening("after"))
    assert messages(History(path).after(0)) == ["before", "after"]
    assert History(path).last == 2


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """As if the disk were full: every longer write fails, the one that reaches the limit in part."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_once_and_costs_only_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    history = History(path)
    history.add(happening("saved"))
    with files_of_at_most(path.stat().st_size + 20), caplog.at_level(logging.WARNING, "salver.controller"):
        for number in range(3):
            history.add(happening(f"unsaved {number}"))
    assert history.unsaved == 3
    assert len(caplog.records) == 1
    history.add(happening("saved again"))
    assert messages(history.after(0)) == ["saved", "unsaved 0", "unsaved 1", "unsaved 2", "saved again"]
    again = History(path)
    assert messages(again.after(0)) == ["saved", "saved again"]
    assert again.add(happening("next")).number == 6


def test_a_folder_in_its_place_is_no_reason_to_stop(tmp_path: Path) -> None:
    history = History(tmp_path)
    assert history.add(happening("one")).number == 1
    assert history.unsaved == 1


def test_the_file_is_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    before = os.umask(0)
    try:
        History(path).add(happening("one"))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_waiting_for_the_next_one() -> None:
    async def main() -> None:
        history = History()
        waiting = [asyncio.create_task(history.wait(0, 30)) for _ in range(3)]
        await asyncio.sleep(0)
        history.add(happening("one"))
        assert await asyncio.gather(*waiting) == [True] * 3
        assert await history.wait(0, 30)
        assert not await history.wait(1, 0)
        assert not await history.wait(1, 0.01)

    asyncio.run(main())


def test_waiting_ends_with_the_controller() -> None:
    async def main() -> None:
        history = History()
        waiting = asyncio.create_task(history.wait(0, 30))
        await asyncio.sleep(0)
        history.end_waits()
        assert not await waiting
        assert not await history.wait(0, 30)

    asyncio.run(main())
