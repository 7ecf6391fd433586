"""What a forked child does before it becomes what it is: leave its siblings' things, tie its life to the parent's."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO, cast

from setproctitle import setproctitle

from salver.engine.local.orphans import children_of_this_process, wear

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Orphans of our descendants become our children, so that we can reap them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent(parent: int, number: int) -> None:
    """Get signal ``number`` when the process that started this one, ``parent``, dies; now, if it has died already."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def fork(title: str, main: Callable[[], None], *, close: list[int], mark: int = 0, tied: bool = True) -> int:
    """Run ``main`` in a child and return its pid.

    The child is killed when the parent's thread that called this ends, so call it from the main thread only. It leads
    a session and process group of its own: killing the group ends most of what user code left behind.

    Args:
        title: what ``ps`` shows.
        close: descriptors of the parent that the child must not keep.
        mark: of the child and all that it starts (``orphans``); 0 for none.
        tied: whether it is killed when the parent ends; else it watches the parent itself, if it wants to.
    """
    parent = os.getpid() if tied else 0
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _child(title, main, close, parent, mark)
    return pid


def _child(title: str, main: Callable[[], None], close: list[int], parent: int, mark: int) -> NoReturn:
    code = 1
    try:
        if parent:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died between fork and prctl
        os.setsid()
        if mark:
            wear(mark)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for descriptor in close:
            os.close(descriptor)
        setproctitle(title)
        gc.enable()
        for stream in (sys.stdout, sys.stderr):
            cast(TextIO, stream).reconfigure(line_buffering=True)  # type: ignore[attr-defined]
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a process: nothing may run past it
        import traceback

        traceback.print_exc()
    finally:
        try:
            from salver.telemetry.logs import flush_logs  # only here: it costs the command line, which forks as well

            flush_logs()
        finally:
            os._exit(code)


def kill_group(pid: int) -> None:
    """SIGKILL to a forked child and what it started. A child that is gone is fine."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        try:  # it has not become a group leader yet
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def end_children() -> None:
    """SIGKILL every child of this process until none is left: a subreaper's children are its orphans, too."""
    while pids := children_of_this_process():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def exit_code(status: int, code: int) -> int:
    """What ``waitid`` reported, as ``subprocess`` has it: a signal as a negative number."""
    return -code if status in {os.CLD_KILLED, os.CLD_DUMPED} else code


def exit_cause(status: int, code: int) -> str:
    """What ``waitid`` reported, for people."""
    if status in {os.CLD_KILLED, os.CLD_DUMPED}:
        try:
            return f"killed by {signal.Signals(code).name}"
        except ValueError:
            return f"killed by signal {code}"
    return f"exited with code {code}"
