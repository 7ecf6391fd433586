"""The target state on disk: what the user wants, so that a new controller wants it too.

A generation is a file of its own: a line with format and checksum, then msgpack. It is written beside the others,
fsynced and renamed, so a crash leaves the old generations or the new one; the last three are kept. A generation that
cannot be read, because the disk lost or changed something, is told and set aside, and the one before is used. When
none can be read, or the newest is from a later version of Salver, loading is refused: a controller that took the
target for empty would stop everything that runs.

Names begin with the controller's epoch: a controller that has been replaced and wakes up late writes generations that
nobody will load. (Rejected: SQLite. One damaged page of its file takes all generations with it, and what it adds over
``rename`` costs every controller a megabyte.)
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Protocol

import msgspec

from salver.errors import StartupError
from salver.records import Target

logger = logging.getLogger("salver.controller")

_GENERATIONS_KEPT = 3
_FORMAT = 2
_MAGIC = b"salver-target"
_SUFFIX = ".target"


class Checkpoint(Protocol):
    """Where the target is kept."""

    def save(self, target: Target) -> None:
        """Make it durable before returning. Raises OSError when that cannot be done; the one before is kept."""
        ...

    def load(self) -> Target:
        """The newest target that can be read; an empty one when none was ever saved. Raises StateUnreadable."""
        ...


class StateUnreadable(StartupError):
    """What is saved cannot be read, and must not be taken for nothing. The message names files and reasons."""


class _Damaged(Exception):
    """A generation that cannot be read; the message says why."""


class FileCheckpoint:
    """A checkpoint in a folder of its own, which is made by ``load`` when it is missing.

    Args:
        folder: for this alone.
        epoch: of this controller; generations of higher ones are newer.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self._folder = folder
        self._epoch = epoch
        self._number = 0

    def save(self, target: Target) -> None:
        body = msgspec.msgpack.encode(target)
        self._number += 1
        path = self._folder / f"{self._epoch:020d}-{self._number:010d}{_SUFFIX}"
        temporary = path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(_head(body) + body)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            self._sync_folder()
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        for old in self._generations()[_GENERATIONS_KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> Target:
        reasons: list[str] = []
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            generations = self._generations()
        except OSError as error:
            raise StateUnreadable(f"the state folder {self._folder} cannot be used: {error.strerror}") from error
        for path in generations:
            try:
                target = self._read(path)
            except _Damaged as damage:
                reasons.append(f"{path}: {damage}")
                continue
            for reason in reasons:
                logger.error("a saved state cannot be read, the one before it is used: %s", reason)
            return target
        if reasons:
            raise StateUnreadable("no saved state can be read:\n  " + "\n  ".join(reasons))
        return Target()

    def _generations(self) -> list[Path]:
        """Newest first. Raises OSError; ``glob`` would find nothing in a folder that cannot be read."""
        return sorted((path for path in self._folder.iterdir() if path.suffix == _SUFFIX), reverse=True)

    def _read(self, path: Path) -> Target:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _Damaged(error.strerror or str(error)) from error
        head, newline, body = data.partition(b"\n")
        words = head.split(b" ")
        if not newline or len(words) != 3 or words[0] != _MAGIC or not words[1].isdigit():
            raise _Damaged("it is not a saved state, or its beginning is lost")
        if int(words[1]) > _FORMAT:
            raise StateUnreadable(
                f"the saved state {path} has format {int(words[1])}, and this version of Salver reads {_FORMAT} at "
                "most: go on with the version that wrote it"
            )
        if head + newline != _head(body):
            raise _Damaged("its content is not what was written (wrong checksum)")
        try:
            return msgspec.msgpack.decode(body, type=Target)
        except msgspec.DecodeError as error:
            raise _Damaged(f"it is from an earlier version of Salver: {error}") from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _head(body: bytes) -> bytes:
    return b"%s %d %s\n" % (_MAGIC, _FORMAT, hashlib.sha256(body).hexdigest().encode())


class MemoryCheckpoint:
    """A checkpoint that lives as long as its owner."""

    def __init__(self) -> None:
        self._target = Target()

    def save(self, target: Target) -> None:
        self._target = target

    def load(self) -> Target:
        return self._target
