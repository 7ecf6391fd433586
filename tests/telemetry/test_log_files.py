"""Reading log files: records, their owners, windows, rotation and files that come later."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.telemetry import log_files
from salver.telemetry.log_file import LogFile
from salver.telemetry.log_files import Follower, Wanted, last_records, parse


def text(second: int, message: str, who: str = "replica a#b#c") -> str:
    return f"INFO 2026-01-01 00:00:{second:02d},000 {who} -- {message}\n"


def line(message: str, who: str = "replica a#b#c") -> list[bytes]:
    return [text(0, message, who).encode()]


def test_records_of_text_and_json_in_one_file() -> None:
    lines = (
        b"rest of a line\n"
        b"INFO 2026-01-01 00:00:00,000 replica a#b#c rid -- app.py:1 one\n"
        b"Traceback\n"
        b"  File\n"
        b'{"asctime":"2026-01-01 00:00:01,000","component_name":"proxy","component_id":"7","application":"a"}\n'
        b"{broken\n"
        b"WARNING 2026-01-01 00:00:02,000 controller 9 -- two\n"
    ).splitlines(keepends=True)
    found = list(parse(lines))
    assert [record.data.count(b"\n") for record in found] == [3, 2, 1]
    about = [(record.component, record.app, record.deployment, record.replica) for record in found]
    assert about == [("replica", "a", "b", "a#b#c"), ("proxy", "a", "", ""), ("controller", "", "", "")]


@pytest.mark.parametrize(
    ("wanted", "covered"),
    [
        (Wanted(), True),
        (Wanted(app="a"), True),
        (Wanted(app="x"), False),
        (Wanted(app="a", deployment="b"), True),
        (Wanted(deployment="x"), False),
        (Wanted(replica="c"), True),
        (Wanted(replica="a#b#c"), True),
        (Wanted(replica="b"), False),
        (Wanted(component="replica"), True),
        (Wanted(component="proxy"), False),
    ],
)
def test_whose_a_record_is(wanted: Wanted, covered: bool) -> None:
    [record] = parse(line("m"))
    assert wanted.covers(record) is covered


def test_an_access_line_is_of_its_application() -> None:
    [record] = parse(line("GET / 200 1.0ms application=shop route=/ client=1.2.3.4:5", who="proxy 7 rid"))
    assert (record.component, record.app) == ("proxy", "shop")


def test_the_last_of_all_files_in_the_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "replica_a_b_c.log").write_text("".join(text(second, f"r{second}") for second in (1, 3, 5)))
    (tmp_path / "proxy_7.log").write_text("".join(text(second, f"p{second}", "proxy 7") for second in (2, 4, 6)))
    (tmp_path / "supervisor_output.log").write_text("not a record\n")
    found = last_records(tmp_path, Wanted(), 4)
    assert [record.data.split()[-1] for record in found] == [b"r3", b"p4", b"r5", b"p6"]
    assert last_records(tmp_path, Wanted(), 0) == []


def test_older_files_and_windows_are_read_as_far_as_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "_FIRST_WINDOW", 64)
    file = LogFile(tmp_path / "replica_a_b_c.log", most_bytes=500)
    for number in range(25):
        file.write(text(number, f"m{number}").encode())
    file.close()
    assert (tmp_path / "replica_a_b_c.log.2").exists()
    for most in (1, 2, 7, 20, 100):
        found = last_records(tmp_path, Wanted(), most)
        assert [record.data.split()[-1] for record in found] == [f"m{n}".encode() for n in range(25)][-most:]


def test_following_through_rotation_and_new_files(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "replica_a_b_c.log", most_bytes=300)
    first.write(text(0, "before").encode())
    follower = Follower(tmp_path)
    seen: list[bytes] = []
    for number in range(40):
        first.write(text(number, f"m{number}").encode())
        if number == 20:
            (tmp_path / "proxy_7.log").write_text(text(20, "proxy", "proxy 7"))
        if number % 3 == 0:
            seen += [record.data.split()[-1] for record in follower.read()]
    for _ in range(3):
        seen += [record.data.split()[-1] for record in follower.read()]
    follower.close()
    first.close()
    assert [each for each in seen if each != b"proxy"] == [f"m{number}".encode() for number in range(40)]
    assert seen.count(b"proxy") == 1


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "replica_a_b_c.log"
    path.touch()
    follower = Follower(tmp_path)
    whole = text(0, "whole")
    with path.open("a") as file:
        file.write(whole[:20])
        file.flush()
        assert follower.read() == []
        file.write(whole[20:])
        file.flush()
        assert [record.data for record in follower.read()] == [whole.encode()]
    follower.close()
