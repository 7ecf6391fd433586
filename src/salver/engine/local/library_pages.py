"""Gives back the pages of libraries that only importing has touched.

A command imports for all processes of its instance (``supervisor_start``) and then does nothing for days but follow.
Of the libraries' files it has megabytes mapped that initializing has read, once. The kernel would take such pages
when it needs them; until then they count as this command's memory, a third of it.

Only mappings without a private page are touched: reading brings each of their pages back from the file.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable

_MADV_DONTNEED = 4
_header = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)").match
_READ_ONLY = {"r-xp", "r--p"}


def give_back_library_pages() -> None:
    """Do it. What cannot be given back stays."""
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as smaps:
            mappings = list(_unwritten(smaps))
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, size in mappings:
        madvise(start, size, _MADV_DONTNEED)


def _unwritten(smaps: Iterable[str]) -> Iterable[tuple[int, int]]:
    """Start and size of each mapping of a file that may not be written and has no page of our own.

    One that was written before it became read-only, as the relocated data of every library, has some: to drop those
    would lose them.
    """
    candidate: tuple[int, int] | None = None
    for line in smaps:
        found = _header(line)
        if found is not None:
            start, end, rights, inode = found.groups()
            is_file = rights in _READ_ONLY and inode != "0"
            candidate = (int(start, 16), int(end, 16) - int(start, 16)) if is_file else None
        elif candidate is not None and line.startswith("Anonymous:"):
            if int(line.split()[1]) == 0:
                yield candidate
            candidate = None
