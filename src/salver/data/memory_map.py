"""Mappings of files without their descriptors.

``mmap.mmap`` keeps a duplicate of its descriptor for as long as it lives (until Python 3.13): a replica that keeps a
thousand arrays would run out of them. So Python makes an anonymous mapping, which has none and is unmapped when its
last view goes, and the file is mapped over it.
"""

from __future__ import annotations

import ctypes
import mmap
import os

_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]


def map_privately(fd: int, offset: int, size: int) -> mmap.mmap:
    """A part of a file in memory, where writing changes a copy of the page that nobody else sees.

    Args:
        offset: of its first byte, a multiple of the page size.
        size: in bytes; all of them must be in the file, and stay there: reading behind its end is SIGBUS.

    Raises:
        OSError: no memory, or too many mappings.
    """
    return _map(fd, offset, size, mmap.MAP_PRIVATE)


def map_shared(fd: int, size: int) -> mmap.mmap:
    """The beginning of a file in memory, to be written. As ``map_privately`` otherwise.

    To write a page that has no memory yet is SIGBUS when there is none left.
    """
    return _map(fd, 0, size, mmap.MAP_SHARED)


def _map(fd: int, offset: int, size: int, flags: int) -> mmap.mmap:
    whole = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if _mmap(address, size, protection, flags | _MAP_FIXED, fd, offset) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return whole
