"""The target state on disk: what the user wants, so that a new controller wants it too.

One row per generation in SQLite, in one transaction, fsynced: a crash leaves the old generation or the new one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

import msgspec

from salver.errors import StartupError
from salver.records import Target

_GENERATIONS_KEPT = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS target (
    generation INTEGER PRIMARY KEY AUTOINCREMENT, format INTEGER NOT NULL, body BLOB NOT NULL
)
"""
_FORMAT = 2


class Checkpoint(Protocol):
    """Where the target is kept."""

    def save(self, target: Target) -> None: ...

    def load(self) -> Target: ...

    def close(self) -> None: ...


class SQLiteCheckpoint:
    """A checkpoint in a file of its own.

    Raises:
        StartupError: the file is damaged or from another version; never silently empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise StartupError(f"the state file {path} cannot be used: {error}") from error
        try:
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise StartupError(f"the state file {path} cannot be used: {error}") from error

    def save(self, target: Target) -> None:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            cursor = self._database.execute(
                "INSERT INTO target (format, body) VALUES (?, ?)", (_FORMAT, msgspec.msgpack.encode(target))
            )
            newest = cursor.lastrowid or 0
            self._database.execute("DELETE FROM target WHERE generation <= ?", (newest - _GENERATIONS_KEPT,))
            self._database.execute("COMMIT")

    def load(self) -> Target:
        try:
            row = self._database.execute(
                "SELECT format, body FROM target ORDER BY generation DESC LIMIT 1"
            ).fetchone()
        except sqlite3.DatabaseError as error:
            raise StartupError(f"the state file {self._path} is damaged: {error}") from error
        if row is None:
            return Target()
        if row[0] != _FORMAT:
            raise StartupError(f"the state file {self._path} has format {row[0]}, this version reads {_FORMAT}")
        try:
            return msgspec.msgpack.decode(row[1], type=Target)
        except msgspec.DecodeError as error:
            raise StartupError(f"the state file {self._path} is damaged: {error}") from error

    def close(self) -> None:
        self._database.close()


class MemoryCheckpoint:
    """A checkpoint that lives as long as its owner."""

    def __init__(self) -> None:
        self._target: Target = Target()

    def save(self, target: Target) -> None:
        self._target = target

    def load(self) -> Target:
        return self._target

    def close(self) -> None:
        pass
