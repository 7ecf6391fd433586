"""Asks a process where it is: its faulthandler writes the stack of whichever thread gets SIGUSR2.

The main thread is what one wants to know about first: the event loop and constructors run there. In a process that
hangs it may only wait for Python's lock (the GIL), which native code in another thread holds. That thread computes,
so it is the one that the kernel shows as running.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def ask_main_thread(pid: int) -> None:
    """Of a child that has not been reaped."""
    os.kill(pid, signal.SIGUSR2)


def ask_running_thread(pid: int) -> None:
    """Of the same child: of the threads beside the main one that run, the one that has computed most; or nobody."""
    others = [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    running = [(computed, int(task.name)) for task in others if (computed := _computed(task)) is not None]
    if running:
        _libc.tgkill(pid, max(running)[1], signal.SIGUSR2)


def _computed(task: Path) -> int | None:
    """Processor time of a thread that runs now, in ticks; None when it waits or has ended."""
    try:
        state, *numbers = (task / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(numbers[10]) + int(numbers[11]) if state == "R" else None
