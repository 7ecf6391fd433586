"""Having a child do something: what needs the user's code, or much of ours, happens in a process that ends."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from salver.cli.output import say_error
from salver.engine.local.process import exit_cause, fork, kill_group


def wait_for_end(end: int) -> None:
    """What ``in_child`` does unless told otherwise."""
    select.select([end], [], [])


def in_child(
    title: str, main: Callable[[], None], *, close: list[int], wait: Callable[[int], object] = wait_for_end
) -> int:
    """Fork a child that runs ``main``, and wait for it; its exit code. Whatever it started ends with it.

    A child that somebody else has killed (the kernel, for want of memory) could say nothing, so it is said here.

    Args:
        title: what ``ps`` shows.
        close: descriptors that it must not keep.
        wait: gets a descriptor that is readable once the child has ended; the child is killed when it returns.
    """
    pid = fork(title, main, close=close)
    by_itself = False
    try:
        end = os.pidfd_open(pid)
        try:
            wait(end)
            by_itself = bool(select.select([end], [], [], 0)[0])
        finally:
            os.close(end)
    finally:
        kill_group(pid)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if by_itself:
        say_error(f"the process `{title}` was {exit_cause(os.CLD_KILLED, -code)}.")
    return 1
