"""What user code leaves behind ends with its replica, also what has made a session of its own.

Killing a replica's process group misses what has called ``setsid``, as every daemon does. When the parent of such a
process ends, the kernel makes it a child of the supervisor, its nearest subreaper, which can then kill it; but whose
was it? Daemons of a replica that lives must stay alive, and by then nothing in ``/proc`` says where they came from:
the process group and the session are their own, the environment is overwritten by names for ``ps``, and cgroups of
our own need rights that we mostly do not have.

So each child gets a mark that everything below it inherits, through fork, exec and setsid alike: a soft limit of
RLIMIT_RTTIME of more than a hundred thousand years, plus a number. That limit is about realtime scheduling, and one
so high limits nothing. A child of the supervisor that it has not forked itself, with the mark of nobody who lives, is
what somebody dead has left behind.

To make each replica a subreaper, so that only a dead replica's processes come to the supervisor, was the other way.
But then a replica would have to reap the daemons that end while it lives, and it cannot tell them from the user's own
processes, whose exit codes are the user's to read. The supervisor reaps whatever becomes its child, at once.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Collection
from pathlib import Path

_FIRST_MARK = 1 << 62


class Marks:
    """Gives each child a mark that no other child has, of this supervisor or of one inside of a replica."""

    def __init__(self) -> None:
        self._next = _FIRST_MARK + (os.getpid() << 32)

    def new(self) -> int:
        self._next += 1
        return self._next


def wear(mark: int) -> None:
    """Put the mark on this process and all that it will start. Where limits may not be set there are no marks."""
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
        resource.setrlimit(resource.RLIMIT_RTTIME, (mark, hard))
    except (OSError, ValueError):
        pass


def kill_orphans(children: Collection[int], living: Collection[int]) -> None:
    """Kill what the dead have left behind. To be called again when it has ended: then its children are orphans.

    Args:
        children: pids of the children that this process has forked itself.
        living: their marks.
    """
    for pid in children_of_this_process():
        if pid not in children and _mark(pid) not in {0, *living}:
            os.kill(pid, signal.SIGKILL)  # our child, so not reaped, so nobody else's pid


def children_of_this_process() -> list[int]:
    """Every child of the main thread, which also adopts; zombies included. Empty where the kernel keeps no list."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _mark(pid: int) -> int:
    """The mark that a process wears, 0 for none."""
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_RTTIME)
    except OSError:
        return 0
    return soft if soft >= _FIRST_MARK else 0
