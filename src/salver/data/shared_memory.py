"""Large buffers, from one process to another without going through a socket.

The sender writes them into a *memfd*, a file that has no name and no file system: it does not need ``/dev/shm``,
there is nothing to guess, and the kernel frees it when the last descriptor and the last mapping have gone, also after
``kill -9`` of either side. It is filled with ``pwrite``, never through a mapping, so that running out of memory is an
error and not SIGBUS, and then sealed: it can neither shrink nor change, so no reader has to trust anybody.

The payload of the frame, which has the flag SHARED, is a reference (pid, descriptor, inode, size) and then the pickle
as usual, in which these buffers are marked as being elsewhere. The receiver opens ``/proc/PID/fd/N``, checks that it
is the file that was meant, and maps each buffer. What it gives out is read-only: all who read share the same pages.
(The mapping itself is private and writable, for PyTorch, which has no read-only tensors: writing changes a copy.)

Lifetime. The sender keeps the descriptor until the receiver has opened the file:

* arguments: until their call has ended, since it may be sent to several replicas (``data.calls.call``);
* results and items: until the caller says RELEASE or its channel breaks (``data.channel``). The caller's link says
  it for every such frame, wanted or not (``data.routing.replica_link``). An item is opened when it comes and mapped
  when it is taken; what waits is bounded by the stream's credit, in which the shared bytes count.

A process holds at most 256 of them, and 1 GiB unless it is a single one; what comes on top goes through the socket,
and so does everything where the kernel refuses. Both ends must be in the same pid namespace, with ``/proc`` mounted.

From which size on: 1 MiB. ``python benchmarks/large_payloads.py``, two cores of a loaded virtual machine, Linux 6.18,
uint8 arrays, MB/s as argument and as result::

    128 KiB   shared   345,   293   socket  816, 825
    384 KiB   shared   620,   570   socket  540, 400
    512 KiB   shared   730,   665   socket 1470, 525
    768 KiB   shared   870,   805   socket  560, 515
      1 MiB   shared   965,  1000   socket  680, 460
     10 MB    shared  1155,  1175   socket  725, 610
     64 MiB   shared  1260,  1230   socket  460, 630

Most of it is the kernel's work on pages: allocating and filling them (10 MB: 4 ms), mapping (1 ms), freeing (2 ms).
``MAP_POPULATE`` would copy every page of a private writable mapping; ``MADV_POPULATE_READ`` and ``fallocate`` gained
nothing. Small buffers in the socket stay in the processor's cache.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from typing import Any

from salver.data.memory_map import map_privately
from salver.errors import ProtocolError, SerializationError
from salver.wire.frames import Buffer
from salver.wire.payload import join, load_value

SHARED_FROM_BYTES = 1024 * 1024
"""Smallest buffer that is shared; smaller ones are copied, and so are writable where they arrive."""

_MOST_HELD = 256
_MOST_HELD_BYTES = 1024**3

_REFERENCE = struct.Struct("<iiQQ")
_INODE = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_HOW = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a descriptor used anew may be a terminal or a pipe


class SharedMemoryGone(SerializationError):
    """The sender of a shared buffer has closed it or died before it was opened here."""


class _Held:
    """What this process holds for others, over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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


class SharedPayload:
    """A payload whose large buffers are in this process's memory, until it is closed or nobody refers to it.

    Attributes:
        data: the payload of the frame.
        inode: identifies the memory among everything that this process holds.
    """

    __slots__ = ("_fd", "_shared", "data", "inode")

    def __init__(self, fd: int, size: int, pickled: Buffer) -> None:
        self._fd = fd
        self._shared = size
        self.inode = os.fstat(fd).st_ino
        self.data = _REFERENCE.pack(os.getpid(), fd, self.inode, size) + pickled

    def __len__(self) -> int:
        """What it weighs for flow control, as ``ReceivedPayload``'s does: all of its bytes, wherever they are."""
        return len(self.data) + self._shared

    def close(self) -> None:
        """Whoever has not opened it will not. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            _held.give_back(self._shared)

    def __del__(self) -> None:
        self.close()


def share(data: bytes, views: list[memoryview]) -> Buffer | SharedPayload:
    """The payload of a pickle and its buffers; to be given to ``dump_value``.

    Raises:
        SerializationError: it is too large for the socket, and cannot be shared.
    """
    large = [view for view in views if view.nbytes >= SHARED_FROM_BYTES]
    size = sum(_whole_pages(view.nbytes) for view in large)
    if not large or not _held.take(size):
        return join(data, views)
    try:
        fd = _write(large, size)
    except OSError:  # no memfd here, or no memory or descriptor for one: nothing that the caller need know
        _held.give_back(size)
        return join(data, views)
    return SharedPayload(fd, size, join(data, views, SHARED_FROM_BYTES))


def _write(views: list[memoryview], size: int) -> int:
    fd = os.memfd_create("salver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        offset = 0
        for view in views:
            written = 0
            while written < view.nbytes:  # one call writes 2 GiB at most
                written += os.pwrite(fd, view[written:], offset + written)
            offset += _whole_pages(view.nbytes)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


class ReceivedPayload:
    """The payload of a SHARED frame, opened: its sender may let it go. Closed when nobody refers to it.

    Raises:
        SharedMemoryGone: its sender has let it go already, so it has died or cancelled the call.
        SerializationError: the memory is not what was announced.
    """

    __slots__ = ("_fd", "_offset", "_payload", "_shared")

    def __init__(self, payload: Buffer) -> None:
        self._fd = -1
        self._offset = 0
        self._payload = payload
        try:
            pid, fd, inode, self._shared = _REFERENCE.unpack_from(payload)
        except struct.error as error:
            raise SerializationError(f"bad reference to shared memory: {error}") from error
        try:
            self._fd = os.open(f"/proc/{pid}/fd/{fd}", _HOW)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES):
                raise SerializationError(f"cannot open the shared memory of process {pid}: {error}") from error
            raise SharedMemoryGone(f"a large value is no longer in the memory of process {pid}: {error}") from error
        self._check(pid, inode)

    def _check(self, pid: int, inode: int) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_ino != inode:
            raise SharedMemoryGone(f"a large value is no longer in the memory of process {pid}")
        try:
            seals = fcntl.fcntl(self._fd, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if found.st_size != self._shared or seals & _SEALS != _SEALS:
            raise SerializationError(f"the shared memory of process {pid} is not as announced")

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
        self._offset += _whole_pages(size)
        if not 0 < size <= self._shared - offset:
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


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def inode_of(payload: Buffer) -> bytes:
    """What a RELEASE says of a SHARED frame's memory: its inode."""
    return _INODE.pack(_REFERENCE.unpack_from(payload)[2])


def decode_release(meta: bytes) -> int:
    try:
        return _INODE.unpack(meta)[0]
    except struct.error as error:
        raise ProtocolError(f"bad release: {error}") from error
