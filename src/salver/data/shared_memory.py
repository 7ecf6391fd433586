"""Large buffers, from one process to another without going through a socket.

The sender writes them into a *memfd*, a file that has no name and no file system: it does not need ``/dev/shm``,
there is nothing to guess, and the kernel frees it when the last descriptor and the last mapping have gone, also after
``kill -9`` of either side. It is filled with ``pwrite``, never through a mapping, so that running out of memory is an
error and not SIGBUS, and it is sealed: it cannot shrink under a reader.

The payload of the frame, which has the flag SHARED, is a reference (pid, descriptor, inode, number of the content,
size) and then the pickle as usual, in which these buffers are marked as being elsewhere. The receiver opens
``/proc/PID/fd/N``, checks that it is the content that was meant, and maps each buffer. What it gives out is
read-only: all who read share the same pages. (The mapping itself is private and writable, for PyTorch, which has no
read-only tensors: writing changes a copy.)

Lifetime. The sender keeps the content until the receiver has opened the file:

* arguments: until their call has ended, since it may be sent to several replicas (``data.calls.call``);
* results and items: until the caller says RELEASE or its channel breaks (``data.channel``). The caller's link says
  it for every such frame, wanted or not (``data.routing.replica_link``). An item is opened when it comes and mapped
  when it is taken; what waits is bounded by the stream's credit, in which the shared bytes count.

Then the file rests, and is written anew when its readers have finished (``data.memory_file``).

A process holds at most 256 of them, and 1 GiB unless it is a single one; what comes on top goes through the socket,
and so does everything where the kernel refuses. Both ends must be in the same pid namespace, with ``/proc`` mounted.

From which size on: 1 MiB. ``python benchmarks/large_payloads.py``, two cores of a virtual machine, Linux 6.18, uint8
arrays, MB/s as argument and as result::

    128 KiB   shared   460,   580   socket  815, 890
    256 KiB   shared  1165,  1105   socket 1315, 1345
    512 KiB   shared  2170,  1715   socket 1770, 480
      1 MiB   shared  2375,  2230   socket 2655, 595
      4 MiB   shared  6975,  5480   socket 3430, 625
     10 MB    shared  7805,  7485   socket 3565, 795
     64 MiB   shared  5240,  5055   socket  500, 615

With new memory for each payload, 10 MB were 1,250 and 1,265. What is left is copying into the pages and mapping them
(``MAP_POPULATE`` would copy every page of a private writable mapping; ``MADV_POPULATE_READ`` and ``fallocate`` gained
nothing). The caller here is a script. There, results through the socket cost mostly page faults, since the memory of
each is given back to the kernel and taken anew: with 64 MiB of ``MALLOC_TOP_PAD_`` they were as fast as arguments,
and where the caller is a replica they are so anyway.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import struct
import threading
from typing import Any

from salver.data.memory_file import HEADER_BYTES, SEALS, MemoryFile, RestingFiles, read_number, whole_pages
from salver.data.memory_map import map_privately
from salver.errors import ProtocolError, SerializationError
from salver.wire.frames import Buffer
from salver.wire.payload import join, load_value

SHARED_FROM_BYTES = 1024 * 1024
"""Smallest buffer that is shared; smaller ones are copied, and so are writable where they arrive."""

_MOST_HELD = 256
_MOST_HELD_BYTES = 1024**3

_REFERENCE = struct.Struct("<iiQQQ")
_NUMBER = struct.Struct("<Q")
_HOW = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a descriptor used anew may be a terminal or a pipe


class SharedMemoryGone(SerializationError):
    """The sender of a shared buffer has closed it or died before it was opened here."""


class _Held:
    """What this process holds for others, over all threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # finalizers give back, wherever the garbage collector likes to run
        self._count = 0
        self._bytes = 0

    def take(self, size: int) -> bool:
        with self._lock:
            fits = self._count == 0 or (self._count < _MOST_HELD and self._bytes + size <= _MOST_HELD_BYTES)
            if fits:
                self._count += 1
                self._bytes += size
            return fits

    def give_back(self, size: int) -> None:
        with self._lock:
            self._count -= 1
            self._bytes -= size


_held = _Held()
_resting = RestingFiles()
_numbers = itertools.count(1)


def _leave_to_parent() -> None:
    _held.__init__()
    _resting.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)


class SharedPayload:
    """A payload whose large buffers are in this process's memory, until it is closed or nobody refers to it.

    Attributes:
        data: the payload of the frame.
        number: identifies the content of the memory among all that this process ever shares.
    """

    __slots__ = ("_file", "_shared", "data", "number")

    def __init__(self, file: MemoryFile, number: int, size: int, pickled: Buffer) -> None:
        self._file: MemoryFile | None = file
        self._shared = size
        self.number = number
        self.data = _REFERENCE.pack(os.getpid(), file.fd, file.inode, number, size) + pickled

    def __len__(self) -> int:
        """What it weighs for flow control, as ``ReceivedPayload``'s does: all of its bytes, wherever they are."""
        return len(self.data) + self._shared

    def close(self) -> None:
        """Whoever has not opened it need not. May be called twice."""
        file, self._file = self._file, None
        if file is not None:
            _resting.add(file)
            if file.is_ours:
                _held.give_back(self._shared)

    def __del__(self) -> None:
        self.close()


def share(data: bytes, views: list[memoryview]) -> Buffer | SharedPayload:
    """The payload of a pickle and its buffers; to be given to ``dump_value``.

    Raises:
        SerializationError: it is too large for the socket, and cannot be shared.
    """
    large = [view for view in views if view.nbytes >= SHARED_FROM_BYTES]
    size = sum(whole_pages(view.nbytes) for view in large)
    if not large or not _held.take(size):
        return join(data, views)
    number = next(_numbers)
    try:
        file = _write(large, size, number)
    except OSError:  # no memfd here, or no memory or descriptor for one: nothing that the caller need know
        _held.give_back(size)
        return join(data, views)
    return SharedPayload(file, number, size, join(data, views, SHARED_FROM_BYTES))


def _write(views: list[memoryview], size: int, number: int) -> MemoryFile:
    file = _resting.take(size) or MemoryFile(size)
    try:
        file.write(views)
        file.write_number(number)
    except BaseException:
        file.close()
        raise
    return file


class ReceivedPayload:
    """The payload of a SHARED frame, opened: its sender may let it go. Closed when nobody refers to it.

    Raises:
        SharedMemoryGone: its sender has let it go already, so it has died or cancelled the call.
        SerializationError: the memory is not what was announced.
    """

    __slots__ = ("_fd", "_offset", "_payload", "_shared")

    def __init__(self, payload: Buffer) -> None:
        self._fd = -1
        self._offset = HEADER_BYTES
        self._payload = payload
        try:
            pid, fd, inode, number, self._shared = _REFERENCE.unpack_from(payload)
        except struct.error as error:
            raise SerializationError(f"bad reference to shared memory: {error}") from error
        try:
            self._fd = os.open(f"/proc/{pid}/fd/{fd}", _HOW)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES):
                raise SerializationError(f"cannot open the shared memory of process {pid}: {error}") from error
            raise SharedMemoryGone(f"a large value is no longer in the memory of process {pid}: {error}") from error
        self._check(pid, inode, number)

    def _check(self, pid: int, inode: int, number: int) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino != inode:
            raise SharedMemoryGone(f"a large value is no longer in the memory of process {pid}")
        try:
            seals = fcntl.fcntl(self._fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if found.st_size < HEADER_BYTES + self._shared or seals & SEALS != SEALS:
            raise SerializationError(f"the shared memory of process {pid} is not as announced")
        if read_number(self._fd) != number:
            raise SharedMemoryGone(f"another large value is now in the memory of process {pid}")

    def __len__(self) -> int:
        """As ``SharedPayload``'s."""
        return len(self._payload) + self._shared

    def load(self) -> Any:
        """The value, once. Raises SerializationError when it cannot be rebuilt here."""
        try:
            return load_value(memoryview(self._payload)[_REFERENCE.size :], self._take)
        finally:
            self.close()

    def _take(self, size: int) -> memoryview:
        """The next buffer, read-only, of a mapping of its own: it is freed when this one is no longer used."""
        offset = self._offset
        self._offset += whole_pages(size)
        if not 0 < size <= HEADER_BYTES + self._shared - offset:
            raise ValueError(f"a buffer of {size} bytes at {offset} in shared memory of {self._shared}")
        return memoryview(map_privately(self._fd, offset, size)).toreadonly()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def load_shared(payload: Buffer) -> Any:
    """The value of a SHARED frame; raises as ``ReceivedPayload`` and its ``load`` do."""
    return ReceivedPayload(payload).load()


def release_of(payload: Buffer) -> bytes:
    """What a RELEASE says of a SHARED frame's memory: the number of its content."""
    return _NUMBER.pack(_REFERENCE.unpack_from(payload)[3])


def decode_release(meta: bytes) -> int:
    try:
        return _NUMBER.unpack(meta)[0]
    except struct.error as error:
        raise ProtocolError(f"bad release: {error}") from error
