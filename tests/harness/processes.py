"""Looking at processes: which of a tree live, and what the kernel says about them.

The test process is the subreaper of all it starts: an orphan becomes its child, so that whatever a test leaves behind
is found among the descendants, however it tried to get away. A mark in the environment would not do: naming a process
for ``ps`` overwrites the place where the kernel reads it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_ROLES = ("supervisor", "controller", "proxy", "replica")


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_alive(pid: int) -> bool:
    """Whether it runs. A zombie does not: it only waits for its parent to look."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(pids: Iterable[int]) -> list[int]:
    return [pid for pid in pids if is_alive(pid)]


def descendants(pid: int) -> list[int]:
    """Every living process below ``pid``."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return living(each.pid for each in below)


def title(pid: int) -> str:
    """What ``ps`` shows; empty for a process that is gone or a zombie."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def role(pid: int) -> str | None:
    """``replica`` for a process titled ``salver: replica ...``; None for what is not one of Salver's processes."""
    name, _, rest = title(pid).partition(" ")
    first = rest.split(" ")[0]
    return first if name == "salver:" and first in _ROLES else None


def by_role(supervisor_pid: int) -> dict[str, list[int]]:
    """An instance's living processes by role, the supervisor's among them."""
    found: dict[str, list[int]] = {name: [] for name in _ROLES}
    for pid in [supervisor_pid, *descendants(supervisor_pid)]:
        kind = role(pid)
        if kind is not None:
            found[kind].append(pid)
    return found


def reap(known: set[int]) -> None:
    """Collect the zombies among our children, except those in ``known``, which have an owner who will."""
    for child in psutil.Process().children():
        try:
            if child.pid not in known and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            pass
