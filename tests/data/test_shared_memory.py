"""Large buffers in sealed files without names: whole, read-only, and gone when nobody needs them.

How files are used again is tested in ``test_memory_file``; here, what rests is closed where it would be in the way.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from data.scene import CallMeta, Kind, Scene, encode, run
from salver.data import shared_memory
from salver.data.shared_memory import (
    SHARED_FROM_BYTES,
    ReceivedPayload,
    SharedMemoryGone,
    SharedPayload,
    load_shared,
    share,
)
from salver.errors import SerializationError
from salver.wire.frames import SHARED
from salver.wire.payload import dump_value, load_value

REFERENCE = struct.Struct("<iiQQQ")


def memfds() -> list[int]:
    """Descriptors of this process that are of shared memory."""
    found: list[int] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith("/memfd:salver"):
                found.append(int(entry))
        except FileNotFoundError:
            pass  # that of the listing
    return found


def mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("/memfd:salver" in line for line in maps)


def close_resting() -> None:
    shared_memory._resting.close()


@pytest.fixture(autouse=True)
def all_freed() -> Generator[None]:
    yield
    close_resting()
    assert memfds() == []
    assert mappings() == 0


def shared(value: object) -> SharedPayload:
    payload = dump_value(value, "it", share)
    assert isinstance(payload, SharedPayload)
    return payload


def large(size: int = SHARED_FROM_BYTES) -> np.ndarray[Any, Any]:
    return (np.arange(size, dtype=np.uint32) % 251).astype(np.uint8)


# --- what arrives ---------------------------------------------------------------------------------------


def test_large_buffers_are_shared_and_small_ones_copied() -> None:
    first, second, small = large(), large(3_000_001), np.arange(10)
    payload = shared({"a": [first, small], "b": second, "again": first})
    assert len(payload.data) < 1000
    assert len(payload) > first.nbytes + second.nbytes
    result = load_shared(payload.data)
    payload.close()
    close_resting()
    assert np.array_equal(result["a"][0], first)
    assert np.array_equal(result["b"], second)
    assert np.array_equal(result["a"][1], small)
    assert result["again"] is result["a"][0]
    assert mappings() == 2
    assert not result["b"].flags.writeable
    assert result["a"][1].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        result["b"][0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
        result["b"].flags.writeable = True
    assert memfds() == [], "a received array holds no descriptor"


def test_each_array_is_freed_by_itself() -> None:
    payload = shared([large(), large()])
    first, second = load_shared(payload.data)
    payload.close()
    part = second[10:20]
    del first, second
    assert mappings() == 1
    assert part[0] == 10


def test_the_threshold_is_per_buffer() -> None:
    assert isinstance(dump_value(large(SHARED_FROM_BYTES - 1), "it", share), bytearray)
    assert isinstance(dump_value([large(SHARED_FROM_BYTES - 1)] * 2, "it", share), bytearray)
    shared(large(SHARED_FROM_BYTES)).close()


def test_the_sender_may_change_its_array_afterwards() -> None:
    array = large()
    payload = shared(array)
    array[:] = 7
    result = load_shared(payload.data)
    assert result[10] == 10
    payload.close()
    assert result[20] == 20


def test_a_tensor_is_writable_and_nobody_else_sees_it() -> None:
    torch = pytest.importorskip("torch")
    payload = shared([torch.zeros(SHARED_FROM_BYTES, dtype=torch.bfloat16), large()])
    ours, theirs = load_shared(payload.data), load_shared(payload.data)
    ours[0][5] = 1
    assert ours[0].sum() == 1
    assert theirs[0].sum() == 0
    assert load_shared(payload.data)[0].sum() == 0
    payload.close()


def test_a_value_can_be_opened_now_and_loaded_later() -> None:
    payload = shared(large())
    received = ReceivedPayload(payload.data)
    payload.close()
    assert len(received) == len(payload)
    assert np.array_equal(received.load(), large())
    payload = shared(large())
    ReceivedPayload(payload.data)  # dropped without being loaded


# --- what does not arrive -------------------------------------------------------------------------------


def test_the_file_is_sealed() -> None:
    payload = shared(large())
    [fd] = memfds()
    for attempt in (
        lambda: os.ftruncate(fd, 0),
        lambda: os.ftruncate(fd, 2**30),
        lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
    ):
        with pytest.raises(OSError, match="not permitted"):
            attempt()
    assert not os.get_inheritable(fd)
    payload.close()


def test_memory_that_was_let_go_is_gone_also_when_its_number_is_used_anew() -> None:
    payload = shared(large())
    [fd] = memfds()
    payload.close()
    close_resting()
    with pytest.raises(SharedMemoryGone, match=rf"no longer in the memory of process {os.getpid()}"):
        load_shared(payload.data)
    ends = os.pipe()
    assert fd in ends
    with pytest.raises(SharedMemoryGone):
        load_shared(payload.data)
    for end in ends:
        os.close(end)
    other = shared(large())
    with pytest.raises(SharedMemoryGone):
        load_shared(payload.data)
    other.close()


def referring(payload: SharedPayload, **changed: int) -> bytes:
    """The payload, with another reference before its pickle."""
    names = ("pid", "fd", "inode", "number", "size")
    fields = dict(zip(names, REFERENCE.unpack_from(payload.data), strict=True)) | changed
    return REFERENCE.pack(*(fields[name] for name in names)) + bytes(payload.data[REFERENCE.size :])


@pytest.mark.parametrize(
    "changed", [{"size": 4096}, {"size": 2**40}, {"number": 1}, {"inode": 1}, {"pid": 2**22 + 1}, {"fd": -1}]
)
def test_a_wrong_reference_is_an_error(changed: dict[str, int]) -> None:
    payload = shared(large())
    with pytest.raises(SerializationError):
        load_shared(referring(payload, **changed))
    payload.close()


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW])
def test_a_file_that_could_still_change_is_refused(seals: int) -> None:
    payload = shared(large())
    fd = os.memfd_create("salver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SHARED_FROM_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(SerializationError, match="not as announced"):
        load_shared(referring(payload, fd=fd, inode=os.fstat(fd).st_ino))
    os.close(fd)
    payload.close()


def test_a_buffer_that_is_not_in_the_file_is_refused() -> None:
    payload = shared(large())
    sizes = REFERENCE.size + 4  # of the first buffer
    for size in (0, SHARED_FROM_BYTES + 1, 2**62):
        data = bytearray(payload.data)
        struct.pack_into("<Q", data, sizes, size | 1 << 63)
        with pytest.raises(SerializationError, match="in shared memory of"):
            load_shared(data)
    payload.close()


def test_every_cut_of_a_reference_is_an_error() -> None:
    payload = shared(large())
    for size in range(len(payload.data) - 1):
        with pytest.raises(SerializationError):
            load_shared(payload.data[:size])
    payload.close()
    with pytest.raises(SerializationError, match="did not come"):
        load_value(payload.data[REFERENCE.size :])


# --- bounds ---------------------------------------------------------------------------------------------


def test_a_process_holds_a_bounded_number_and_sends_the_rest_through_the_socket() -> None:
    array = large()
    held = [shared(array) for _ in range(256)]
    assert isinstance(dump_value(array, "it", share), bytearray)
    held.pop().close()
    held.append(shared(array))
    assert np.array_equal(load_shared(held[255].data), array)
    held.clear()
    assert len(memfds()) == 8, "of what nobody refers to, only what rests is open"


def test_a_process_holds_a_bounded_number_of_bytes_unless_it_is_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_MOST_HELD_BYTES", 3 * SHARED_FROM_BYTES)
    one = shared(large(5 * SHARED_FROM_BYTES))
    assert isinstance(dump_value(large(), "it", share), bytearray)
    one.close()
    two, three = shared(large(2 * SHARED_FROM_BYTES)), shared(large())
    assert isinstance(dump_value(large(), "it", share), bytearray)
    two.close()
    three.close()


def test_what_is_held_is_counted_over_all_threads() -> None:
    def work() -> None:
        for _ in range(100):
            payload = shared(large())
            load_shared(payload.data)
            payload.close()
            payload.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (shared_memory._held._count, shared_memory._held._bytes) == (0, 0)


REFUSED = """
import resource, sys
import numpy as np
from salver.data.shared_memory import SharedPayload, _resting, share
from salver.wire.payload import dump_value, load_value
array = np.arange(3_000_000, dtype=np.uint8)
assert isinstance(dump_value(array, "it", share), SharedPayload)
if sys.argv[3] == "new":
    _resting.close()
array = np.arange(3_500_000, dtype=np.uint8)  # more than what has memory in the file that rests
resource.setrlimit(getattr(resource, sys.argv[1]), (int(sys.argv[2]),) * 2)
for _ in range(1000):
    payload = dump_value(array, "it", share)
    assert isinstance(payload, bytearray)
    assert np.array_equal(load_value(payload), array)
"""


@pytest.mark.parametrize(
    ("limit", "value", "file"),
    [("RLIMIT_NOFILE", 3, "new"), ("RLIMIT_FSIZE", 1_000_000, "new"), ("RLIMIT_FSIZE", 1_000_000, "resting")],
)
def test_where_the_kernel_refuses_the_socket_is_used(limit: str, value: int, file: str) -> None:
    """No descriptor left; writing fails in the middle, as it does when memory is full."""
    assert hasattr(resource, limit)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, limit, str(value), file], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


# --- over a channel -------------------------------------------------------------------------------------


def test_a_replica_keeps_a_result_until_it_is_released_or_its_caller_is_gone() -> None:
    array = large()

    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica(4)
            peer, other = await scene.peer(replica), await scene.peer(replica)
            for stream in (1, 2):
                peer.call(stream, "echo", array)
            other.call(1, "echo", array)
            answers = [await peer.next(Kind.RESPONSE, 1), await peer.next(Kind.RESPONSE, 2)]
            answers.append(await other.next(Kind.RESPONSE, 1))
            assert [frame.flags for frame in answers] == [SHARED] * 3
            assert len(memfds()) == 3
            assert np.array_equal(load_shared(answers[0].payload), array)
            peer.send(Kind.RELEASE, 0, shared_memory.release_of(answers[0].payload))
            await peer.nothing_more()
            assert len(memfds()) == 3, "one of them rests"
            close_resting()
            assert len(memfds()) == 2
            peer.send(Kind.RELEASE, 0, shared_memory.release_of(answers[0].payload))
            peer.send(Kind.RELEASE, 0, bytes(8))
            await peer.nothing_more()
            close_resting()
            assert len(memfds()) == 2
            peer.hang_up()
            await other.nothing_more()
            other.call(2, "echo", 1)
            assert await other.answer(2) == 1
            close_resting()
            assert len(memfds()) == 1
            with pytest.raises(SharedMemoryGone):
                load_shared(answers[1].payload)

    run(test())


def test_arguments_that_are_gone_when_the_replica_looks_fail_the_call_alone() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            peer = await scene.peer(replica)
            payload = shared(((large(),), {}))
            payload.close()
            close_resting()
            peer.send(Kind.CALL, 1, encode(CallMeta("echo", "id")), payload.data, SHARED)
            frame = await peer.next(Kind.ERROR, 1)
            assert b"the arguments of d.echo: a large value is no longer in the memory" in frame.meta
            peer.send(Kind.CALL, 2, encode(CallMeta("echo", "id")), b"rubbish", SHARED)
            await peer.next(Kind.ERROR, 2)
            peer.call(3, "echo", 1)
            assert await peer.answer(3) == 1

    run(test())
