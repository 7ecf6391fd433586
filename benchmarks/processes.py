"""The processes of a server as the kernel sees them: memory, CPU time, and their end.

PSS (proportional set size) splits a page among the processes that map it, so that the sum over processes is what they
take from the machine together. RSS counts shared pages once for each process; it is listed because other servers'
numbers are often RSS.
"""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
SETTLE_WITHIN_S = 30.0
KILLED_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    name: str
    """As the kernel knows it: `salver: proxy`, `raylet`. A command line may hold paths and is never shown."""
    pss_mb: float
    rss_mb: float


def adopt_orphans() -> None:
    """From now on, what outlives its parent below this process becomes this process's child, so that
    `kill_descendants` finds it: Ray's daemons, say, when their driver was killed."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> None:
    """Ends every process below this one, until there is none."""
    while children := psutil.Process().children(recursive=True):
        kill(children)


def tree(root: int) -> list[psutil.Process]:
    """The process and all below it."""
    top = psutil.Process(root)
    return [top, *top.children(recursive=True)]


def settled_tree(root: int, settle_s: float) -> list[psutil.Process]:
    """The same, once none has come or gone for so long (Salver's child that built the application, say)."""
    deadline = time.monotonic() + SETTLE_WITHIN_S
    before: list[psutil.Process] = []
    while before != (now := tree(root)) and time.monotonic() < deadline:
        before = now
        time.sleep(settle_s)
    return now


def memory(processes: Iterable[psutil.Process]) -> list[ProcessMemory]:
    return [_memory(process) for process in processes]


def _memory(process: psutil.Process) -> ProcessMemory:
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0]) * 1024 / 1e6
    name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    return ProcessMemory(name, sizes["Pss"], sizes["Rss"])


def cpu_percent(processes: Iterable[psutil.Process], seconds: float) -> float:
    """Of one core, all together, over the seconds from now."""
    processes = list(processes)
    before, start = cpu_seconds(processes), time.perf_counter()
    time.sleep(seconds)
    return 100 * (cpu_seconds(processes) - before) / (time.perf_counter() - start)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Counted in nanoseconds by the scheduler: clock ticks of 10 ms would hide all that an idle process does."""
    total = 0
    for process in processes:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:  # the thread has just ended
                pass
    return total / 1e9


def stop(root: int, *, within: float) -> None:
    """Ctrl-C to the process, and no mercy later: for it and for all that was below it."""
    try:
        everything = tree(root)
        everything[0].send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(everything, timeout=within)
    kill(alive)


def kill(processes: Iterable[psutil.Process]) -> None:
    """Those that are still there."""
    processes = list(processes)
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(processes, timeout=KILLED_WITHIN_S)
