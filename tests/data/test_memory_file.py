"""Files in memory that are used again: never while anybody reads, never for a long time, and only by their owner."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.waiting import eventually
from salver.data import memory_file, shared_memory
from salver.data.memory_file import HEADER_BYTES, MemoryFile, RestingFiles, file_size, read_number
from salver.data.shared_memory import (
    SHARED_FROM_BYTES,
    ReceivedPayload,
    SharedMemoryGone,
    SharedPayload,
    load_shared,
    share,
)
from salver.wire.payload import dump_value

WITHIN_S = 30.0
SIZE = 2 * SHARED_FROM_BYTES


def memfds() -> list[int]:
    """Inodes of the shared memory to which this process has descriptors."""
    found: list[int] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith("/memfd:salver"):
                found.append(os.stat(f"/proc/self/fd/{entry}").st_ino)
        except FileNotFoundError:
            pass  # that of the listing
    return found


@pytest.fixture(autouse=True)
def all_freed() -> Generator[None]:
    yield
    shared_memory._resting.close()
    assert memfds() == []
    assert "memfd:salver" not in Path("/proc/self/maps").read_text()


def shared(value: object) -> SharedPayload:
    payload = dump_value(value, "it", share)
    assert isinstance(payload, SharedPayload)
    return payload


def full_of(number: int, size: int = SIZE) -> np.ndarray[Any, Any]:
    return np.full(size, number, dtype=np.uint8)


# --- used again -----------------------------------------------------------------------------------------


def test_memory_is_used_again_when_nobody_reads_it() -> None:
    inodes: set[int] = set()
    for number in range(20):
        payload = shared(full_of(number))
        inodes.update(memfds())
        array = load_shared(payload.data)
        payload.close()
        assert (array[0], array[-1]) == (number, number)
        del array
    assert len(inodes) == 1


def test_memory_that_is_read_is_left_alone() -> None:
    kept: list[np.ndarray[Any, Any]] = []
    for number in range(20):
        payload = shared(full_of(number))
        kept.append(load_shared(payload.data))
        payload.close()
    for number, array in enumerate(kept):
        assert (array.min(), array.max()) == (number, number)
    assert len(memfds()) == 8


def test_a_part_of_an_array_keeps_all_of_it() -> None:
    payload = shared(full_of(1))
    part = load_shared(payload.data)[-10:]
    payload.close()
    for number in range(2, 5):
        other = shared(full_of(number))
        other.close()
    assert part.tolist() == [1] * 10


def test_what_was_opened_and_not_loaded_yet_is_left_alone() -> None:
    payload = shared(full_of(1))
    received = ReceivedPayload(payload.data)
    payload.close()
    shared(full_of(2)).close()
    assert set(received.load().tolist()) == {1}


def test_what_a_tensor_was_changed_to_is_never_seen_again() -> None:
    torch = pytest.importorskip("torch")
    for number in range(3):
        payload = shared(torch.full((SIZE,), number, dtype=torch.uint8))
        tensor = load_shared(payload.data)
        payload.close()
        assert int(tensor.min()) == int(tensor.max()) == number
        tensor.fill_(100)


def test_sizes_that_differ_a_little_share_their_memory() -> None:
    for size in (SIZE, SIZE + 1, SIZE + 100_000, SIZE + 1_000_000):
        payload = shared([full_of(1, size)])
        [array] = load_shared(payload.data)
        assert (array.nbytes, array.sum()) == (size, size)
        payload.close()
        del array
    assert len(memfds()) == 1
    shared(full_of(1, 3 * SIZE)).close()
    assert len(memfds()) == 2


def test_a_file_takes_no_more_memory_than_what_is_written() -> None:
    file = MemoryFile(5_000_000)
    file.write([memoryview(bytes(5_000_000))])
    assert os.fstat(file.fd).st_size == file_size(5_000_000) == 8 * 1024**2
    assert os.fstat(file.fd).st_blocks * 512 < 5_000_000 + 3 * HEADER_BYTES
    file.close()


def content(file: MemoryFile, size: int) -> bytes:
    return os.pread(file.fd, size, HEADER_BYTES)


def test_what_is_written_again_is_what_was_meant_whatever_had_memory_before() -> None:
    """Through the mapping where there is memory, by ``pwrite`` behind that; the next view at the next page."""
    random = np.random.default_rng(1)
    file = MemoryFile(16 * 1024**2)
    for sizes in ([10], [4096, 1], [5_000_000, 5_000_000], [9_000_000], [11_000_001, 7], [3, 12_000_000], [4097, 5]):
        views = [random.integers(0, 256, size, dtype=np.uint8).tobytes() for size in sizes]
        file.write([memoryview(view) for view in views])
        expected = b"".join(view.ljust(-(-len(view) // mmap.PAGESIZE) * mmap.PAGESIZE, b"?") for view in views[:-1])
        found = content(file, len(expected) + sizes[-1])
        assert found[len(expected) :] == views[-1]
        assert found[: sizes[0]] == views[0]
    assert os.fstat(file.fd).st_blocks * 512 < 12_000_000 + 4 * mmap.PAGESIZE
    file.close()


WITHOUT_ROOM = """
import resource
from salver.data.memory_file import HEADER_BYTES, MemoryFile
import os
file = MemoryFile(1 << 26)
file.write([memoryview(bytes(5_000_000))])
resource.setrlimit(resource.RLIMIT_AS, (1 << 24, resource.RLIM_INFINITY))
file.write([memoryview(b"x" * 1_000_000)])
assert file._mapping is None
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert os.pread(file.fd, 1_000_001, HEADER_BYTES) == b"x" * 1_000_000 + b"\\0"
"""


def test_without_room_for_a_mapping_it_is_written_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ROOM], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


READER = """
import sys
from salver.data.shared_memory import load_shared
array = load_shared(bytes.fromhex(sys.argv[1]))
print(int(array[0]), flush=True)
sys.stdin.readline()
print(int(array.min()), int(array.max()), flush=True)
sys.stdin.readline()
"""


def test_another_process_reads_undisturbed_and_its_death_ends_that() -> None:
    payload = shared(full_of(1))
    command = [sys.executable, "-c", READER, bytes(payload.data).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        payload.close()
        [inode] = memfds()
        other = shared(full_of(2))
        assert set(memfds()) > {inode}
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "1 1\n"
        reader.kill()
    again = shared(full_of(3))
    assert len(memfds()) == 2, "that of the reader was taken"
    again.close()
    other.close()


# --- too late -------------------------------------------------------------------------------------------


def test_who_comes_late_finds_the_old_content_or_none() -> None:
    payload = shared(full_of(1))
    payload.close()
    assert set(load_shared(payload.data).tolist()) == {1}, "it only rests"
    other = shared(full_of(2))
    assert len(memfds()) == 1
    with pytest.raises(SharedMemoryGone, match="another large value is now in the memory of process"):
        load_shared(payload.data)
    assert set(load_shared(other.data).tolist()) == {2}
    other.close()


def test_a_file_that_is_being_written_has_no_content() -> None:
    file = MemoryFile(SIZE)
    file.write_number(7)
    reader = os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY)
    assert not file.is_free()
    assert read_number(reader) == 7
    os.close(reader)
    assert file.is_free()
    assert read_number(file.fd) == 0
    file.close()


def test_whoever_opens_while_another_looks_is_refused_or_in_time() -> None:
    """Two threads, as fast as they can; a signal would end the process, and a wrong content the test."""
    resting = RestingFiles()
    current: list[bytes] = []
    stop = threading.Event()
    seen = {"read": 0, "gone": 0}

    def read() -> None:
        while not stop.is_set():
            if current:
                data = current[-1]
                try:
                    array = load_shared(data)
                except SharedMemoryGone:
                    seen["gone"] += 1
                else:
                    assert len(set(array[:: SHARED_FROM_BYTES // 4].tolist())) == 1
                    seen["read"] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 2.0
    number = 0
    while time.monotonic() < until or not (seen["read"] and seen["gone"]):
        number += 1
        payload = shared(full_of(number % 251))
        current[:] = [bytes(payload.data)]
        payload.close()
    stop.set()
    for reader in readers:
        reader.join()
    assert seen["read"] > 0
    resting.close()


def test_a_broken_lease_kills_nobody() -> None:
    """What the kernel does to the holder of a lease when somebody opens the file."""
    code = (
        "import fcntl, os\n"
        "from salver.data import memory_file\n"
        "file = memory_file.MemoryFile(1000)\n"
        "write = memory_file.MemoryFile.write_number\n"
        "def write_while_somebody_opens(self, number):\n"
        "    try: os.open(f'/proc/self/fd/{self.fd}', os.O_RDONLY | os.O_NONBLOCK)\n"
        "    except BlockingIOError: print('refused')\n"
        "    write(self, number)\n"
        "memory_file.MemoryFile.write_number = write_while_somebody_opens\n"
        "print(file.is_free(), file.is_free())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\nrefused\nTrue True\n"), done.stderr


# --- for how long ---------------------------------------------------------------------------------------


def test_what_rests_is_closed_after_a_while_without_use() -> None:
    for number in range(3):
        shared([full_of(number), full_of(number)]).close()
    shared(full_of(1, 10 * SIZE)).close()
    assert len(memfds()) == 2
    eventually("it is closed", lambda: memfds() == [], WITHIN_S)
    eventually("no thread is left", lambda: "salver-shared-memory" not in names_of_threads(), WITHIN_S)


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_bounded_number_rests_and_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    resting = RestingFiles()
    for _ in range(20):
        resting.add(MemoryFile(SIZE))
    assert len(memfds()) == 8
    monkeypatch.setattr(memory_file, "_MOST_RESTING_BYTES", 4 * file_size(SIZE))
    resting.add(MemoryFile(SIZE))
    assert len(memfds()) == 4
    resting.add(MemoryFile(3 * SIZE))
    assert len(memfds()) == 3
    resting.add(MemoryFile(100 * SIZE))
    assert len(memfds()) == 3
    resting.close()


def test_a_process_ends_with_memory_that_rests() -> None:
    code = (
        "import numpy as np\n"
        "from salver.data.shared_memory import share\n"
        "from salver.wire.payload import dump_value\n"
        "kept = dump_value(np.ones(3_000_000), 'it', share)\n"
        "dump_value(np.ones(3_000_000), 'it', share).close()\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 30


# --- forked processes -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12, about forks beside threads
def test_a_forked_child_writes_to_nothing_of_its_parent() -> None:
    held = shared(full_of(1))
    shared(full_of(2, 3 * SIZE)).close()
    inherited = set(memfds())
    assert len(inherited) == 2
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            held.close()  # as its finalizer would
            own = shared(full_of(9)), shared(full_of(9, 3 * SIZE))
            code = 0 if not inherited & set(memfds()) and len(own) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert set(load_shared(held.data).tolist()) == {1}
    held.close()


def test_a_stopped_reader_stops_nobody() -> None:
    payload = shared(full_of(1))
    command = [sys.executable, "-c", READER, bytes(payload.data).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        reader.send_signal(signal.SIGSTOP)
        payload.close()
        for number in range(20):
            shared(full_of(number)).close()
        assert len(memfds()) == 2
        reader.kill()
