"""How many descriptors the processes of an instance hold."""

from __future__ import annotations

import os

import psutil

from harness.instance import SalverRun
from harness.processes import descendants, title
from harness.waiting import eventually


def descriptors(run: SalverRun) -> dict[str, int]:
    """How many descriptors the processes of each role hold, but for log files, which the first line opens."""
    eventually(
        "the build has ended",
        lambda: not any(title(pid).startswith("salver: build") for pid in descendants(run.cli_pid)),
    )
    return {role: sum(_held_by(pid) for pid in pids) for role, pids in run.pids().items()}


def wait_for_no_more_than(run: SalverRun, before: dict[str, int], within: float = 20.0) -> None:
    """Wait until no role holds more than ``before``; an answer may take a moment to be closed on both sides.

    Raises AssertionError, with what is open, when a role holds more after ``within`` seconds.
    """

    def no_growth() -> bool:
        now = descriptors(run)
        growth.update({role: now[role] - before[role] for role in before})
        return max(growth.values()) <= 0

    growth: dict[str, int] = {}
    try:
        eventually("the processes hold no more than before", no_growth, within)
    except AssertionError as error:
        held = {role: [targets_of(pid) for pid in run.pids()[role]] for role, more in growth.items() if more > 0}
        raise AssertionError(f"{error}; growth {growth}; now open: {held}") from None


def _held_by(pid: int) -> int:
    logs = [each for each in psutil.Process(pid).open_files() if each.path.endswith(".log")]
    return psutil.Process(pid).num_fds() - len(logs)


def targets_of(pid: int) -> list[str]:
    """What the descriptors of a process lead to; one that is closed while we look is none."""
    found: list[str] = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found
