"""The target on disk: the last generation or the one before, never nothing by mistake."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from salver.controller.checkpoint import Checkpoint, MemoryCheckpoint, SQLiteCheckpoint
from salver.errors import StartupError
from salver.records import ApplicationSpec, CodeContext, DeploymentId, DeploymentSpec


def target(number: int) -> tuple[ApplicationSpec, ...]:
    deployment = DeploymentSpec(DeploymentId("app", "d"), f"v{number}", b"\x00\xff" * 100, options={"n": [1, None]})
    return (
        ApplicationSpec("app", "/", "d", (deployment,), CodeContext(("/a", ""), "/cwd", ("m:f",))),
        ApplicationSpec("second", None, "d", ()),
    )


@pytest.mark.parametrize("make", [lambda _: MemoryCheckpoint(), SQLiteCheckpoint], ids=["memory", "sqlite"])
def test_the_newest_target_is_loaded(make: type[SQLiteCheckpoint], tmp_path: Path) -> None:
    checkpoint: Checkpoint = make(tmp_path / "state.sqlite")
    assert checkpoint.load() == ()
    for number in range(10):
        checkpoint.save(target(number))
        assert checkpoint.load() == target(number)
    checkpoint.save(())
    assert checkpoint.load() == ()
    checkpoint.close()


def rows(path: Path) -> list[int]:
    database = sqlite3.connect(path)
    try:
        return [generation for (generation,) in database.execute("SELECT generation FROM target ORDER BY 1")]
    finally:
        database.close()


def test_a_new_process_finds_what_the_last_one_saved(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    for number in range(3):
        checkpoint = SQLiteCheckpoint(path)
        checkpoint.save(target(number))
        checkpoint.close()
    again = SQLiteCheckpoint(path)
    assert again.load() == target(2)
    again.close()


def test_three_generations_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    checkpoint = SQLiteCheckpoint(path)
    for number in range(20):
        checkpoint.save(target(number))
    checkpoint.close()
    assert rows(path) == [18, 19, 20]


def test_a_save_that_fails_leaves_the_generation_before(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    checkpoint = SQLiteCheckpoint(path)
    checkpoint.save(target(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON target BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.DatabaseError, match="disk full"):
        checkpoint.save(target(2))
    assert checkpoint.load() == target(1)
    other.execute("DROP TRIGGER full")
    other.close()
    checkpoint.save(target(3))
    assert checkpoint.load() == target(3)
    checkpoint.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_damaged_file_is_a_startup_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(content)
    with pytest.raises(StartupError) as caught, closing(SQLiteCheckpoint(path)) as checkpoint:
        checkpoint.load()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content, "left as it was, for whoever repairs it"


def test_damaged_pages_are_found_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    checkpoint = SQLiteCheckpoint(path)
    checkpoint.save(target(1))
    checkpoint.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(StartupError) as caught, closing(SQLiteCheckpoint(path)) as damaged:
        damaged.load()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"\xff", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"name": 1})])
def test_a_body_that_cannot_be_read_is_a_startup_error_that_names_the_file(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    checkpoint = SQLiteCheckpoint(path)
    checkpoint.save(target(1))
    database = sqlite3.connect(path)
    database.execute("UPDATE target SET body = ?", (body,))
    database.commit()
    database.close()
    with pytest.raises(StartupError) as caught:
        checkpoint.load()
    assert str(path) in str(caught.value)
    checkpoint.close()


def test_another_format_is_a_startup_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    checkpoint = SQLiteCheckpoint(path)
    checkpoint.save(target(1))
    database = sqlite3.connect(path)
    database.execute("UPDATE target SET format = 99")
    database.commit()
    database.close()
    with pytest.raises(StartupError, match="has format 99, this version reads 1") as caught:
        checkpoint.load()
    assert str(path) in str(caught.value)
    checkpoint.close()


def test_a_file_that_cannot_be_opened_is_a_startup_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="unable to open"):
        SQLiteCheckpoint(tmp_path / "missing" / "state.sqlite")
