"""Files in memory that other processes read, and that are written anew when the last of them has finished.

New memory is dear: of 10 MB the kernel takes 4 ms to find and clear the pages, and 2 ms to free them; to write over
pages that are there takes one, and a third of that if they are mapped. So a file *rests* when nobody is to open it
any more, and is taken for the next payload of its size.

A page is written by ``pwrite`` first, which fails when there is no memory, where a mapping would be SIGBUS. From then
on it has its memory and is written through a mapping.

Whoever reads has mapped the file, for as long as user code keeps the array. That nobody does is not for the readers
to say: the kernel knows. It grants a *write lease* on a file only while no other opening of it exists, and a mapping
keeps its opening alive, also when the descriptor is closed; one that dies takes its mappings along. A file on which
no lease is to be had, because somebody reads or because this kernel has none for such files, is left alone.

Somebody may also come late, with a reference to what was in the file before. Each content has a *number*, in the
first page of the file and in the reference: who finds another one there has come too late, and who has found the
right one has the file open, so that it is not written.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import signal
import struct
import threading
import time

from salver.data.memory_map import map_shared

HEADER_BYTES = mmap.PAGESIZE
"""What is before the content: its number, and nothing else, since mappings begin on a page."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""Reading behind the end of a file is SIGBUS: none of these ever gets shorter."""

_MOST_RESTING = 8
_MOST_RESTING_BYTES = 128 * 1024**2
_REST_S = 1.0

_NUMBER = struct.Struct("<Q")
_AT_ONCE_BYTES = 4 * 1024**2  # copying into a mapping keeps other threads waiting: for a quarter of a millisecond
_MADV_POPULATE_WRITE = 23  # Linux 5.14


class MemoryFile:
    """A file without a name, of a fixed size; it has memory only where it was written.

    Args:
        content_bytes: it must have room for so many; it gets room for the next power of two.

    Raises:
        OSError: no memfd here, no descriptor, or a limit.

    Attributes:
        fd: this process's descriptor of it.
        inode: identifies it among all such files of the machine.
        size: in bytes, with the header.
    """

    __slots__ = ("_mapping", "_owner", "_written", "fd", "inode", "size")

    def __init__(self, content_bytes: int) -> None:
        self.size = file_size(content_bytes)
        self._written = HEADER_BYTES  # so much of it has memory
        self._mapping: memoryview | None = None
        self._owner = os.getpid()
        made = os.memfd_create("salver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:  # the first descriptor of a memfd does not count as an opening for writing: no lease would be granted
            self.fd = os.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(made)
        try:
            os.ftruncate(self.fd, self.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS | fcntl.F_SEAL_SEAL)
            self.inode = os.fstat(self.fd).st_ino
        except BaseException:
            os.close(self.fd)
            raise

    @property
    def is_ours(self) -> bool:
        """Whether this process has made it: a forked one has only inherited it."""
        return self._owner == os.getpid()

    def is_free(self) -> bool:
        """Whether nobody else has it open or mapped; if so, it has no content any more.

        Those who open it in this very moment are refused, and those who come later find no content.
        """
        try:  # who opens it now breaks the lease, and the signal for that is SIGIO, which kills, unless one is chosen
            fcntl.fcntl(self.fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
        try:
            self.write_number(0)
        finally:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True

    def write_number(self, number: int) -> None:
        """The number of the content that it has from now on; 0 for none."""
        os.pwrite(self.fd, _NUMBER.pack(number), 0)

    def write(self, views: list[memoryview]) -> None:
        """Each, of bytes, at the beginning of a page. Raises OSError when memory runs out."""
        offset = HEADER_BYTES
        for view in views:
            end = offset + whole_pages(view.nbytes)
            if end <= self._written and (mapping := self._mapped()):
                _copy(view, mapping[offset:])
            else:
                _write_at(self.fd, view, offset)
                self._written = max(self._written, end)
            offset = end

    def _mapped(self) -> memoryview | None:
        """None where there is no room for a mapping."""
        if self._mapping is None:
            with contextlib.suppress(OSError):
                mapping = map_shared(self.fd, self.size)
                self._mapping = memoryview(mapping)
                mapping.madvise(_MADV_POPULATE_WRITE, 0, self._written)  # only faster than page by page
        return self._mapping

    def close(self) -> None:
        """Its memory is freed with its last reader."""
        self._mapping = None
        os.close(self.fd)


class RestingFiles:
    """Files of this process that are to be used again, or closed after a second without use. For all threads.

    Eight of them at most, and 128 MiB: those that have rested longest are closed.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may add a file wherever the garbage collector likes to run
        self._since: dict[MemoryFile, float] = {}
        self._bytes = 0
        self._timer: threading.Timer | None = None

    def take(self, content_bytes: int) -> MemoryFile | None:
        """One of the right size that nobody reads any more, None if there is none."""
        size = file_size(content_bytes)
        with self._lock:
            for file in reversed(self._since):  # what was used last is in the processor's cache
                if file.size == size and file.is_free():
                    self._forget(file)
                    return file
        return None

    def add(self, file: MemoryFile) -> None:
        """Nobody will open it who has not done so."""
        if not file.is_ours or file.size > _MOST_RESTING_BYTES:
            file.close()
            return
        with self._lock:
            self._since[file] = time.monotonic()
            self._bytes += file.size
            while len(self._since) > _MOST_RESTING or self._bytes > _MOST_RESTING_BYTES:
                self._close(next(iter(self._since)))
            if self._timer is None:
                self._wait()

    def _wait(self) -> None:
        timer = threading.Timer(_REST_S, self._close_idle)
        timer.name = "salver-shared-memory"
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread can be had, for instance because the interpreter ends
            self.close()
        else:
            self._timer = timer

    def _close_idle(self) -> None:
        with self._lock:
            last = time.monotonic() - _REST_S
            for file in [file for file, since in self._since.items() if since <= last]:
                self._close(file)
            self._timer = None
            if self._since:
                self._wait()

    def close(self) -> None:
        """Close all that rest."""
        with self._lock:
            for file in list(self._since):
                self._close(file)

    def _close(self, file: MemoryFile) -> None:
        self._forget(file)
        file.close()

    def _forget(self, file: MemoryFile) -> None:
        del self._since[file]
        self._bytes -= file.size

    def leave_to_parent(self) -> None:
        """In a forked child: what rests is the parent's, and so are the timer and whoever had the lock."""
        inherited = list(self._since)
        self.__init__()
        for file in inherited:
            file.close()


def _copy(view: memoryview, into: memoryview) -> None:
    for start in range(0, view.nbytes, _AT_ONCE_BYTES):
        part = view[start : start + _AT_ONCE_BYTES]
        into[start : start + part.nbytes] = part


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < view.nbytes:  # one call writes 2 GiB at most
        written += os.pwrite(fd, view[written:], offset + written)


def file_size(content_bytes: int) -> int:
    """A power of two: sizes that differ a little share their files."""
    return 1 << (content_bytes + HEADER_BYTES - 1).bit_length()


def whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def read_number(fd: int) -> int:
    """The number of the content of somebody's file, 0 for none. Raises OSError."""
    data = os.pread(fd, _NUMBER.size, 0)
    return _NUMBER.unpack(data)[0] if len(data) == _NUMBER.size else 0
