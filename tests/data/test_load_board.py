"""The load board: shared by processes, private to the user, never followed through a link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from salver.data.load_board import SLOTS, LoadBoard, clear_slot, create_load_board


def test_a_board_is_for_this_user_only_and_all_zero(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    before = os.umask(0)
    try:
        create_load_board(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    board = LoadBoard(path)
    assert list(board.cells) == [0] * SLOTS
    board.close()


def test_every_mapping_sees_every_slot(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    create_load_board(path)
    writer, reader = LoadBoard(path), LoadBoard(path)
    for slot in (0, 1, SLOTS - 1):
        writer.cells[slot] = slot + 7
        assert reader.cells[slot] == slot + 7
    with pytest.raises(IndexError):
        writer.cells[SLOTS] = 1
    writer.close()
    assert reader.cells[0] == 7
    reader.close()


def test_another_process_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    create_load_board(path)
    board = LoadBoard(path)
    board.cells[5] = 42
    code = (
        "import sys; from pathlib import Path; from salver.data.load_board import LoadBoard\n"
        "cells = LoadBoard(Path(sys.argv[1])).cells; print(cells[5]); cells[6] = 43"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=30, check=True)
    assert done.stdout == b"42\n"
    assert board.cells[6] == 43
    board.close()


def test_an_existing_file_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        create_load_board(path)
    assert path.read_bytes() == b"precious"


def test_links_are_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    create_load_board(real)
    link = tmp_path / "load.board"
    link.symlink_to(real)
    with pytest.raises(OSError, match="symbolic links"):
        LoadBoard(link)
    with pytest.raises(FileExistsError):
        create_load_board(link)


def test_boards_without_a_file_are_separate() -> None:
    one, other = LoadBoard(), LoadBoard()
    one.cells[3] = 1
    assert other.cells[3] == 0
    one.close()
    other.close()


def test_a_closed_board_is_not_read() -> None:
    board = LoadBoard()
    cells = board.cells
    board.close()
    with pytest.raises(ValueError, match="released"):
        cells[0]


def test_columns_and_slots_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    create_load_board(path)
    board, other = LoadBoard(path), LoadBoard(path)
    columns = ("cells", "beats", "loop_beats", "rss")
    for number, name in enumerate(columns):
        for slot in (0, 7, SLOTS - 1):
            getattr(board, name)[slot] = 1000 * number + slot + 1
    board.set_place(7, "app.py:12")
    board.set_place(SLOTS - 1, "last.py:1")
    for number, name in enumerate(columns):
        for slot in (0, 7, SLOTS - 1):
            assert getattr(other, name)[slot] == 1000 * number + slot + 1
        assert sum(map(bool, getattr(other, name))) == 3
    assert [other.place(slot) for slot in (0, 7, SLOTS - 1)] == ["", "app.py:12", "last.py:1"]
    board.close()
    other.close()


def test_a_slot_is_cleared_for_the_next_replica_in_every_mapping(tmp_path: Path) -> None:
    path = tmp_path / "load.board"
    create_load_board(path)
    board = LoadBoard(path)
    for slot in (4, 5, 6):
        for column in (board.cells, board.beats, board.loop_beats, board.rss):
            column[slot] = 99
        board.set_place(slot, "app.py:12")
    clear_slot(path, 5)
    for column in (board.cells, board.beats, board.loop_beats, board.rss):
        assert list(column[4:7]) == [99, 0, 99]
    assert [board.place(slot) for slot in (4, 5, 6)] == ["app.py:12", "", "app.py:12"]
    board.close()


def test_a_long_place_keeps_its_end_and_any_text_is_one() -> None:
    board = LoadBoard()
    board.set_place(0, "/very/long" * 20 + "/app.py:12")
    assert board.place(0).endswith("long/app.py:12")
    assert len(board.place(0)) == 64
    board.set_place(0, "ä" * 40 + "\ud800.py:1")
    assert board.place(0).endswith("ä?.py:1")
    board.set_place(0, "")
    assert board.place(0) == ""
    board.close()
