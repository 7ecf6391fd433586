"""The load board: how many requests each replica of this machine runs, readable without asking.

A small file mapped by every process of the instance: one 8-byte cell per replica, one writer each. A replica whose
event loop is blocked by user code cannot answer BUSY; its cell still says that it is occupied. Aligned 8-byte stores
are atomic on the machines we run on, so a reader sees an old or a new count, never a mixture.

Counts are hints for choosing: the replica alone decides whether it has a free slot.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

SLOTS = 4096
_CELL_BYTES = 8


def create_load_board(path: Path) -> None:
    """Make the file, all zero, for this user only."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(descriptor, SLOTS * _CELL_BYTES)
    finally:
        os.close(descriptor)


class LoadBoard:
    """One process's view of the board. Cells are read and written by slot number.

    Args:
        path: the file; None keeps the board in this process alone (the memory engine).
    """

    def __init__(self, path: Path | None = None) -> None:
        size = SLOTS * _CELL_BYTES
        if path is None:
            self._map = mmap.mmap(-1, size)
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                self._map = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        self.cells = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.cells.release()
        self._map.close()
