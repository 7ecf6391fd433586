"""The load board: what each replica of this machine does, readable without asking it.

A small file mapped by every process of the instance. Each replica has a slot, and is the only writer of what is in
it: how many requests it runs (``cells``), and what its control thread knows (the other columns). A replica whose
event loop is blocked by user code cannot answer BUSY; its cell still says that it is occupied, and its beats that it
lives. Aligned 8-byte stores are atomic on the machines we run on, so a reader sees an old or a new value, never a
mixture.

Counts are hints for choosing: the replica alone decides whether it has a free slot.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

SLOTS = 4096
_CELL_BYTES = 8
_COLUMN_BYTES = SLOTS * _CELL_BYTES
_COLUMNS = 4
_PLACE_BYTES = 64
_PLACES_AT = _COLUMNS * _COLUMN_BYTES
_BOARD_BYTES = _PLACES_AT + SLOTS * _PLACE_BYTES


def create_load_board(path: Path) -> None:
    """Make the file, all zero, for this user only.

    All of its space is taken now: on a disk that is full later, writing to a page that is not there would be SIGBUS.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _BOARD_BYTES)
    finally:
        os.close(descriptor)


def clear_slot(path: Path, slot: int) -> None:
    """Forget what the last replica in this slot has written, before the next one starts.

    Through the file and not a mapping: the supervisor, which does it, would hand a mapping on to all that it forks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        for column in range(_COLUMNS):
            os.pwrite(descriptor, bytes(_CELL_BYTES), column * _COLUMN_BYTES + slot * _CELL_BYTES)
        os.pwrite(descriptor, bytes(_PLACE_BYTES), _PLACES_AT + slot * _PLACE_BYTES)
    finally:
        os.close(descriptor)


class LoadBoard:
    """One process's view of the board. Columns are read and written by slot number.

    Args:
        path: the file; None keeps the board in this process alone (the memory engine).

    Attributes:
        cells: requests that run.
        beats: when the control thread last ran, in milliseconds of the monotonic clock, which all processes share;
            0 before its first beat, and for ever where there is no such thread.
        loop_beats: until when the event loop is known to have answered, on the same clock. It stays behind ``beats``
            for as long as the loop owes an answer.
        rss: resident memory in bytes.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._map = mmap.mmap(-1, _BOARD_BYTES)
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                self._map = mmap.mmap(descriptor, _BOARD_BYTES)
            finally:
                os.close(descriptor)
        with memoryview(self._map) as whole:
            columns = [whole[n * _COLUMN_BYTES : (n + 1) * _COLUMN_BYTES].cast("Q") for n in range(_COLUMNS)]
        self.cells, self.beats, self.loop_beats, self.rss = columns

    def set_place(self, slot: int, place: str) -> None:
        """Note where the event loop is blocked: ``app.py:12``; of a longer text its end."""
        data = place.encode(errors="replace")[-_PLACE_BYTES:]
        start = _PLACES_AT + slot * _PLACE_BYTES
        self._map[start : start + _PLACE_BYTES] = data.ljust(_PLACE_BYTES, b"\0")

    def place(self, slot: int) -> str:
        """Where the event loop is blocked, or was last; empty when it never was."""
        start = _PLACES_AT + slot * _PLACE_BYTES
        return self._map[start : start + _PLACE_BYTES].rstrip(b"\0").decode(errors="replace")

    def close(self) -> None:
        for column in (self.cells, self.beats, self.loop_beats, self.rss):
            column.release()
        self._map.close()
