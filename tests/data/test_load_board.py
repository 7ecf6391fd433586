"""The load board: shared by processes, private to the user, never followed through a link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from salver.data.load_board import SLOTS, LoadBoard, create_load_board


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
