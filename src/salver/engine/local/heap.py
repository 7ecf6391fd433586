"""How the C library's allocator treats large blocks, in the processes that carry bodies.

By default it gives what is freed back to the kernel at once: blocks of more than 128 KiB, which are mappings, and
whatever more than that is free at the end of the heap. A body of 1 MB is then paged in anew for each request, and
each time it is copied: on virtual machines, where page faults are dear, that is three quarters of what it costs.

glibc adapts both thresholds to what it sees freed, too late and in steps. These are the values at which it would end:
what a process needed once for large bodies it keeps, up to 64 MiB. One that never sees any has no more than before.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_TUNED_BY = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}
_MAPPED_FROM_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024


def keep_freed_memory() -> None:
    """From now on, in this process. Does nothing where the C library is another one, or has been tuned already."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not _TUNED_BY & os.environ.keys():
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
