"""Records as JSON lines in a file of the instance, so that a controller that is started again knows them.

Such a file is no state: a line that is cut off or damaged is passed over, and when the disk is full, serving matters
more than remembering. It grows to twice what is to be kept, and is then written anew.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

logger = logging.getLogger("salver.controller")

_LINE_BYTES = 64 * 1024
_T = TypeVar("_T", bound=msgspec.Struct)


class LineFile(Generic[_T]):
    """One such file.

    Args:
        path: None keeps nothing.
        record: what a line is.
        what: the same for people.
        most: records that are to be kept.

    Attributes:
        unsaved: how many could not be written.
    """

    def __init__(self, path: Path | None, record: type[_T], *, what: str, most: int) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(record)
        self._what = what
        self._most = most
        self._lines = 0
        self._begin_line = b""
        self.unsaved = 0

    def load(self) -> list[_T]:
        """What is in it, oldest first; to be called once, before ``save``."""
        found: list[_T] = []
        if self._path is None:
            return found
        try:
            with self._path.open("rb") as file:
                while line := file.readline(_LINE_BYTES):
                    self._lines += 1
                    self._begin_line = b"" if line.endswith(b"\n") else b"\n"
                    try:
                        found.append(self._decoder.decode(line))
                    except msgspec.DecodeError:
                        continue  # cut off when the disk was full, or when the machine lost power
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("past %s cannot be read from %s: %s", self._what, self._path, error)
        return found

    def save(self, record: _T, kept: Callable[[], Iterable[_T]]) -> None:
        """Append a record; ``kept`` gives all that are to be kept, it included, should the file be written anew."""
        if self._path is None:
            return
        line = self._begin_line + msgspec.json.encode(record) + b"\n"
        try:
            if self._lines >= 2 * self._most:
                self._rewrite(self._path, [msgspec.json.encode(each) + b"\n" for each in kept()])
                return
            written = _append(self._path, line)
            if written != len(line):
                raise OSError("the disk is full")  # noqa: TRY301 - a short write is the same as none
            self._lines += 1
            self._begin_line = b""
        except OSError as error:
            self._begin_line = b"\n"  # part of a line may be there
            self.unsaved += 1
            if self.unsaved == 1:
                logger.warning("%s are kept in memory only, %s cannot be written: %s", self._what, self._path, error)

    def _rewrite(self, path: Path, lines: list[bytes]) -> None:
        """Drop from the file what memory has dropped."""
        temporary = path.with_suffix(".new")
        data = b"".join(lines)
        try:
            temporary.unlink(missing_ok=True)
            if _append(temporary, data) != len(data):
                raise OSError("the disk is full")  # noqa: TRY301
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._lines = len(lines)
        self._begin_line = b""


def _append(path: Path, data: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)
