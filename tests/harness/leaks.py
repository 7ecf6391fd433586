"""Nothing is left behind: compares what this process has, before and after a test."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple, Self

from harness.processes import descendants, reap, title
from harness.waiting import eventually

_SETTLE_S = 5.0


class Belongings(NamedTuple):
    """What a test process has: descriptors with what they lead to, threads of ours, descendants, instance folders."""

    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[int]
    processes: frozenset[int]
    folders: frozenset[Path]


class AsyncioComplaints(logging.Handler):
    """Collects what asyncio reports when a pending task or an unread exception is thrown away."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> Self:
        logging.getLogger("asyncio").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("asyncio").removeHandler(self)


def belongings() -> Belongings:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    return Belongings(
        frozenset(_descriptors()),
        frozenset(thread.ident or 0 for thread in threading.enumerate() if thread.name.startswith("salver")),
        frozenset(descendants(os.getpid())),
        frozenset(_instance_folders(runtime)),
    )


def assert_nothing_left(before: Belongings, settle: float = _SETTLE_S) -> None:
    """Fail with a list of what is there now and was not ``before``; kill the processes among it.

    What is ending may take ``settle`` seconds.
    """
    if any(_left(before)):
        gc.collect()  # what nobody refers to any more closes now, and says so with a ResourceWarning
        try:
            eventually("everything ends", lambda: not any(_left(before)), settle)
        except AssertionError:
            left = _left(before)
            text = _describe(left)
            for pid in left.processes:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"left behind by this test:\n{text}") from None
    reap(set(before.processes))


def _left(before: Belongings) -> Belongings:
    now = belongings()
    return Belongings(
        now.descriptors - before.descriptors,
        now.threads - before.threads,
        now.processes - before.processes,
        now.folders - before.folders,
    )


def _instance_folders(runtime: Path) -> list[Path]:
    """In this process's own runtime folder, and in those of the commands that it has started."""
    found = itertools.chain(runtime.glob("salver/*"), runtime.glob("*/salver/*"))
    return [each for each in found if each.name != "logs"]  # they are kept on purpose


def _descriptors() -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append((int(entry), os.readlink(f"/proc/self/fd/{entry}")))
        except FileNotFoundError:
            pass  # the descriptor of this very listing
    return found


def _describe(left: Belongings) -> str:
    lines = [f"  descriptor {number}: {target}" for number, target in sorted(left.descriptors)]
    lines += [f"  thread {thread.name}" for thread in threading.enumerate() if thread.ident in left.threads]
    lines += [f"  process {pid}: {title(pid)}" for pid in sorted(left.processes)]
    lines += [f"  folder {path}" for path in sorted(left.folders)]
    return "\n".join(lines)
