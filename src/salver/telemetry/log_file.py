"""One process's log file: appended to, rotated by size, for this user only.

``NAME.log``, ``NAME.log.1`` and ``NAME.log.2``, the newest first. One process writes it, so rotating is renaming, and
whoever follows the file can see it happen: the name leads to another inode. A file that somebody else has removed or
moved is made again.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

MOST_BYTES = 50 << 20
"""Of one file, before it is rotated."""

ROTATED = 2
"""Older files that are kept beside the one that is written."""

MOST_FILES = 300
"""Of one folder: replicas come and go, and the files of those that went long ago go, too."""

_not_for_names = re.compile(r"[^A-Za-z0-9.-]")  # here, before processes are forked: each would compile it again
_UNUSED_FOR_S = 3600.0
_LOOK_EVERY_S = 1.0


def log_file_name(component: str, identity: str) -> str:
    """``replica_app_Deployment_k3f9.log``; what is special in a file system or a shell becomes ``_``.

    Args:
        component: ``replica``, ``proxy``, ``controller``.
        identity: the replica's id, else the process's.
    """
    return f"{component}_{_not_for_names.sub('_', identity)[:200]}.log"


def log_file_path(folder: str, component: str, identity: str) -> str | None:
    """Where a process logs, or did; the file is made with its first line. None without a folder."""
    return f"{folder}/{log_file_name(component, identity)}" if folder else None


class LogFile:
    """An outlet of log lines. The file is made with the first of them."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.name = str(path)
        self._path = path
        self._most_bytes = most_bytes
        self._descriptor = -1
        self._size = 0
        self._look_at = 0.0
        self._rotates = True
        self._torn = False
        """A write ended in the middle of a line."""

    def write_now(self, data: bytes) -> int:
        return 0  # a disk may take seconds

    def write(self, data: bytes) -> None:
        self._open_again()
        if self._torn:
            data = b"\n" + data
        self._torn = True
        while data:
            written = os.write(self._descriptor, data)
            self._size += written
            data = data[written:]
        self._torn = False

    def forked(self) -> None:
        self._rotates = False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open_again(self) -> None:
        """Have the right file open: not one that is full, nor one that has no longer this name."""
        if self._descriptor >= 0:
            full = self._size >= self._most_bytes and self._rotates
            if not full and self._is_there():
                return
            if full:
                self._rotate()
            self.close()
        else:
            make_room(self._path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _is_there(self) -> bool:
        """Looked up once a second: each system call makes the event loop give its interpreter away."""
        now = time.monotonic()
        if now < self._look_at:
            return True
        self._look_at = now + _LOOK_EVERY_S
        try:
            return os.stat(self._path).st_ino == os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        for number in range(ROTATED, 0, -1):
            newer = self._path if number == 1 else rotated(self._path, number - 1)
            try:
                newer.rename(rotated(self._path, number))
            except FileNotFoundError:
                pass


def rotated(path: Path, number: int) -> Path:
    """The ``number``th older file of a log file."""
    return path.with_name(f"{path.name}.{number}")


def make_room(folder: Path) -> None:
    """Remove the oldest files of a folder that has too many, as far as nobody has written them for an hour."""
    try:
        files = [path for path in folder.iterdir() if "_" in path.name and ".log" in path.name]
        if len(files) < MOST_FILES:
            return
        written_at = {path: path.stat().st_mtime for path in files}
        for path in sorted(files, key=written_at.__getitem__)[: len(files) - MOST_FILES + 1]:
            if written_at[path] < time.time() - _UNUSED_FOR_S:
                path.unlink(missing_ok=True)
    except OSError:
        pass  # another process does the same at this moment
