"""What code of the user's prints: it goes where it always went, and as lines into the log.

``sys.stdout`` and ``sys.stderr`` are replaced, in replicas only. So what is printed waits for no reader either, and
what C libraries and other programs write to the descriptors themselves is not seen here.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, cast

_MOST_UNFINISHED = 8192
"""Bytes of a line that has no end yet."""

_Line = Callable[[str, str], None]


class Printed(io.RawIOBase):
    """The bytes under a standard stream.

    Args:
        descriptor: of the stream.
        name: of the logger that its lines are of.
        write: takes the bytes as they are; None when lines are all that is wanted.
        log: takes the logger's name and a line.
    """

    def __init__(self, descriptor: int, name: str, write: Callable[[bytes], None] | None, log: _Line) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._name = name
        self._write = write
        self._log = log
        self._unfinished = b""
        self._lock = threading.RLock()

    def write(self, data: Any, /) -> int:
        written = bytes(data)
        if self._write is not None:
            self._write(written)
        for line in self._finished_by(written):
            shown = line.rstrip(b"\r").rpartition(b"\r")[2]  # of a progress bar, what a terminal shows in the end
            if shown:
                self._log(self._name, shown.decode(errors="replace"))
        return len(written)

    def _finished_by(self, written: bytes) -> list[bytes]:
        with self._lock:
            *lines, rest = (self._unfinished + written).split(b"\n")
            if len(rest) > _MOST_UNFINISHED:
                lines.append(rest)
                rest = b""
            self._unfinished = rest
        return lines

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True


def replace_standard_streams(
    write_out: Callable[[bytes], None] | None, write_err: Callable[[bytes], None] | None, log: _Line
) -> None:
    """Take what this process prints from now on; arguments as in ``Printed``."""
    sys.stdout = _stream(sys.stdout, 1, "stdout", write_out, log)
    sys.stderr = _stream(sys.stderr, 2, "stderr", write_err, log)


def _stream(before: TextIO, descriptor: int, name: str, write: Callable[[bytes], None] | None, log: _Line) -> TextIO:
    before.flush()
    printed = cast(Any, Printed(descriptor, name, write, log))
    return io.TextIOWrapper(
        printed, encoding=before.encoding, errors="backslashreplace", line_buffering=True, write_through=False
    )
