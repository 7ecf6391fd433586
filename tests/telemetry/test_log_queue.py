"""Who logs never waits and never fails: with readers that stop or leave, disks that are full, and children."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from harness.waiting import eventually
from salver.telemetry.log_file import LogFile
from salver.telemetry.log_queue import MOST_QUEUED_BYTES, LogQueue
from salver.telemetry.metrics import registry
from salver.telemetry.terminal import Terminal

WITHIN_S = 20.0
LINE = b"x" * 99 + b"\n"


def note(text: str) -> bytes:
    return f"NOTE {text}\n".encode()


class Pipe:
    """A pipe, and the queue that writes to it as to a process's stderr."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.queue = LogQueue(Terminal(self.write_end), note)

    def read_until(self, part: bytes) -> bytes:
        data = b""
        deadline = time.monotonic() + WITHIN_S
        while part not in data:
            assert select.select([self.read_end], [], [], deadline - time.monotonic())[0], data[-1000:]
            data += os.read(self.read_end, 65536)
        return data

    def fill(self) -> int:
        """Write lines until the queue itself is full; how many."""
        lines = 0
        while lines * len(LINE) < 3 * MOST_QUEUED_BYTES:
            self.queue.write(LINE * 100)
            lines += 100
        return lines

    def stop_reading(self) -> None:
        """Its reader has left."""
        os.close(self.read_end)
        self.read_end = -1

    def close(self) -> None:
        if self.read_end >= 0:
            self.stop_reading()
        self.queue.close()
        eventually("the thread ends", lambda: not threads(), WITHIN_S)
        os.close(self.write_end)


@pytest.fixture
def pipe() -> Generator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("salver log")]


def dropped(name: str) -> float:
    for family in registry.snapshot():
        if family.name == "salver_log_dropped_total":
            return sum(each.values[0] for each in family.series if each.labels == (name,))
    return 0.0


def test_a_terminal_is_written_at_once_without_a_thread(pipe: Pipe) -> None:
    pipe.queue.write(b"one\n")
    assert os.read(pipe.read_end, 100) == b"one\n"
    assert threads() == []


def test_a_reader_that_stops_costs_lines_and_no_time(pipe: Pipe) -> None:
    before = dropped("stdout")
    start = time.monotonic()
    written = pipe.fill()
    assert time.monotonic() - start < 5, "nothing has waited"
    lost = dropped("stdout") - before
    assert 0 < lost < written
    data = pipe.read_until(b"NOTE ")
    data += pipe.read_until(b"\n") if not data.endswith(b"\n") else b""
    lines = data.splitlines(keepends=True)
    assert lines.count(LINE) == written - lost, "what was not counted as lost has come, in whole lines"
    assert lines[-1] == note(f"{lost:.0f} log lines were dropped that stdout could not take; it works again")
    pipe.queue.write(b"after\n")
    assert pipe.read_until(b"after\n") == b"after\n"


def test_a_reader_that_leaves_is_told_beside_once(pipe: Pipe, tmp_path: Path) -> None:
    file = pipe.queue.beside = LogQueue(LogFile(tmp_path / "replica_a.log"), note)
    pipe.stop_reading()
    for _ in range(100):
        pipe.queue.write(b"nobody reads this\n")
        assert pipe.queue.flush(WITHIN_S)
    assert file.flush(WITHIN_S)
    assert (tmp_path / "replica_a.log").read_text().splitlines() == [
        "NOTE log lines are being dropped: cannot write to stdout: Broken pipe"
    ]
    file.close()


def test_a_socket_as_a_service_manager_gives_it() -> None:
    ours, theirs = socket.socketpair()
    queue = LogQueue(Terminal(theirs.fileno()), note)
    queue.write(b"one\n")
    assert ours.recv(100) == b"one\n"
    for _ in range(3 * MOST_QUEUED_BYTES // (100 * len(LINE))):
        queue.write(LINE * 100)
    assert len(threads()) == 1, "it waits for the reader, and we do not"
    data = b""
    while b"NOTE " not in data:
        data += ours.recv(1 << 20)
    queue.close()
    eventually("the thread ends", lambda: not threads(), WITHIN_S)
    theirs.close()
    ours.close()


def test_a_file_comes_into_being_with_the_first_line_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "replica_a.log"
    queue = LogQueue(LogFile(path), note)
    assert not path.exists()
    queue.write(b"one\n")
    queue.write(b"two\n")
    assert queue.flush(WITHIN_S)
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600
    queue.close()


def test_a_folder_that_is_gone_is_told_and_so_is_its_return(pipe: Pipe, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    queue = LogQueue(LogFile(folder / "replica_a.log"), note)
    queue.beside = pipe.queue
    for _ in range(3):
        queue.write(b"lost\n")
        assert queue.flush(WITHIN_S)
    assert b"No such file or directory" in pipe.read_until(b"\n")
    folder.mkdir()
    queue.write(b"kept\n")
    assert b"3 log lines were dropped" in pipe.read_until(b"\n")
    queue.close()
    eventually(
        "both are written",
        lambda: (folder / "replica_a.log").read_bytes().startswith(b"kept\nNOTE 3 log lines"),
        WITHIN_S,
    )


def test_a_full_disk_leaves_no_half_line_before_what_comes_later() -> None:
    """/dev/full takes nothing; a file that took half of a line is the same to the next write."""
    file = LogFile(Path("/dev/full"))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            file.write(b"lost\n")
    file.close()


@pytest.mark.parametrize("size", [1, 1000])
def test_rotation_keeps_three_files_and_every_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "replica_a.log"
    file = LogFile(path, most_bytes=10 * size)
    lines = [f"{number:0{size}d}\n".encode() for number in range(40)]
    for line in lines:
        file.write(line)
    file.close()
    names = sorted(each.name for each in tmp_path.iterdir())
    assert names == ["replica_a.log", "replica_a.log.1", "replica_a.log.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in reversed(names))
    assert b"".join(lines).endswith(kept)
    assert len(kept) > 15 * size


def test_a_file_that_somebody_moved_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "replica_a.log"
    file = LogFile(path)
    file.write(b"one\n")
    path.rename(tmp_path / "moved")

    def written_again() -> bool:
        file.write(b"two\n")
        return path.exists()

    eventually("it notices", written_again, WITHIN_S)
    assert path.read_bytes() == b"two\n"
    file.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_user_code_writes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "replica_a.log"
    queue = LogQueue(LogFile(path), note)
    queue.write(b"parent\n")
    assert queue.flush(WITHIN_S)
    pid = os.fork()
    if not pid:
        queue.write(b"child\n")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    queue.write(b"parent again\n")
    assert queue.flush(WITHIN_S)
    assert path.read_bytes() == b"parent\nchild\nparent again\n"
    queue.close()


def test_many_threads_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "replica_a.log"
    queue = LogQueue(LogFile(path), note)

    def log(name: int) -> Callable[[], None]:
        def run() -> None:
            for number in range(500):
                queue.write(f"{name} {number}\n".encode())

        return run

    runs = [threading.Thread(target=log(name)) for name in range(8)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert queue.flush(WITHIN_S)
    lines = path.read_text().split("\n")[:-1]
    assert len(lines) == 8 * 500
    for name in range(8):
        assert [line for line in lines if line.startswith(f"{name} ")] == [f"{name} {n}" for n in range(500)]
    queue.close()
