"""Reads a folder of log files: the last lines of all of them in the order of time, and what comes after.

Files may rotate and appear while they are read. A line is looked at only as far as is needed to know whose it is and
when it was; lines that do not begin like one belong to the record before them (tracebacks).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from salver.telemetry.log_file import ROTATED, rotated
from salver.telemetry.text_lines import application_of, beginning_of_record

_FIRST_WINDOW = 1 << 20
"""Bytes of a file's end that are read first; four times as many when what is wanted was not among them."""

_MOST_AT_ONCE = 4 << 20
"""Bytes that are read from one file at a time when it is followed."""


class Wanted(Struct, frozen=True):
    """Which records; what is empty does not matter.

    Attributes:
        app: its replicas' records, and the proxies' that are about it.
        deployment, replica: only records of replicas have one.
        component: ``controller``, ``proxy``, ``replica`` or ``supervisor``.
    """

    app: str = ""
    deployment: str = ""
    replica: str = ""
    component: str = ""

    def covers(self, record: LogRecord) -> bool:
        return (
            self.component in {"", record.component}
            and self.app in {"", record.app}
            and self.deployment in {"", record.deployment}
            and self.replica in {"", record.replica, record.replica.rpartition("#")[2]}
        )


class LogRecord(Struct):
    """One record as it is in a file.

    Attributes:
        time: as it was written; sorts as text.
        identity: of the process: the replica's id, else a number.
        data: all of its lines, each with its end.
    """

    time: str
    component: str
    identity: str
    app: str
    data: bytes

    @property
    def replica(self) -> str:
        return self.identity if self.component == "replica" else ""

    @property
    def deployment(self) -> str:
        parts = self.replica.split("#")
        return parts[1] if len(parts) > 1 else ""


class _JsonLine(Struct):
    asctime: str = ""
    component_name: str = ""
    component_id: str = ""
    application: str = ""


_json_line = msgspec.json.Decoder(_JsonLine)


def parse(lines: Iterable[bytes]) -> Iterator[LogRecord]:
    """Records from lines; what comes before the first beginning of one is left out."""
    current: LogRecord | None = None
    for line in lines:
        begun = _begin(line)
        if begun is not None:
            if current is not None:
                yield current
            current = begun
        elif current is not None:
            current.data += line
    if current is not None:
        yield current


def _begin(line: bytes) -> LogRecord | None:
    if line.startswith(b"{"):
        try:
            read = _json_line.decode(line)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None
        return LogRecord(read.asctime, read.component_name, read.component_id, read.application, line)
    found = beginning_of_record(line)
    if found is None:
        return None
    time, component, identity = (found[name].decode(errors="replace") for name in ("time", "component", "id"))
    app = identity.partition("#")[0] if component == "replica" else ""
    if component == "proxy":
        app = application_of(line)
    return LogRecord(time, component, identity, app, line)


def log_files(folder: Path) -> list[Path]:
    """The files that processes write to now, or wrote to last, links followed; not the rotated ones."""
    paths = (path for path in folder.glob("*_*.log") if not path.name.startswith("supervisor_output"))
    return sorted({path.resolve() if path.is_symlink() else path for path in paths})


def last_records(folder: Path, wanted: Wanted, most: int) -> list[LogRecord]:
    """The last ``most`` records, the oldest first."""
    found = [record for path in log_files(folder) for record in _last_of_file(path, wanted, most)]
    found.sort(key=lambda record: record.time)
    return found[-most:] if most else []


def _last_of_file(path: Path, wanted: Wanted, most: int) -> list[LogRecord]:
    found: list[LogRecord] = []
    for each in (path, *(rotated(path, number) for number in range(1, ROTATED + 1))):
        try:
            found = [*_last_of_part(each, wanted, most - len(found)), *found]
        except FileNotFoundError:
            break
        if len(found) >= most:
            break
    return found


def _last_of_part(path: Path, wanted: Wanted, most: int) -> list[LogRecord]:
    """Read from the end, more and more until it is enough."""
    window = _FIRST_WINDOW
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while True:
            start = max(0, size - window)
            file.seek(start)
            if start:
                file.readline()  # the rest of a line
            found = [record for record in parse(file) if wanted.covers(record)]
            if len(found) >= most or not start:
                return found[len(found) - most :] if len(found) > most else found
            window *= 4


class Follower:
    """What is written to a folder's files from now on.

    Args:
        folder: may get files at any time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[Path, _Followed] = {path: _Followed(path, at_end=True) for path in log_files(folder)}

    def read(self) -> list[LogRecord]:
        """What is new since the last call, of all files, in the order of time."""
        for path in log_files(self._folder):
            if path not in self._open:
                self._open[path] = _Followed(path, at_end=False)
        found = [record for followed in self._open.values() for record in followed.read()]
        found.sort(key=lambda record: record.time)
        return found

    def close(self) -> None:
        for followed in self._open.values():
            followed.close()


class _Followed:
    """One name, whatever file has it at the moment."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self._path = path
        self._descriptor = -1
        self._begun = b""
        """A line without its end."""
        self._open()
        if at_end and self._descriptor >= 0:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._descriptor = -1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self) -> Iterator[LogRecord]:
        if self._descriptor < 0:
            self._open()
            if self._descriptor < 0:
                return iter(())
        moved = self._has_moved()  # before reading: what is written until then is in the file that we have
        data = self._begun + os.read(self._descriptor, _MOST_AT_ONCE)
        *lines, self._begun = data.split(b"\n")
        if moved and len(data) < _MOST_AT_ONCE:
            self.close()
            self._open()
        return parse(line + b"\n" for line in lines)

    def _has_moved(self) -> bool:
        try:
            return os.stat(self._path).st_ino != os.fstat(self._descriptor).st_ino
        except FileNotFoundError:
            return False  # between the two steps of rotating
