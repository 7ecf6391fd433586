"""What the supervisor has forked: who they are, and what is left of them when they have ended."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from importlib import import_module

from salver.engine.interface import ReplicaProcess
from salver.engine.local.oom import OOMKills
from salver.engine.local.orphans import Marks, kill_orphans
from salver.engine.local.process import exit_cause, exit_code, fork, kill_group

_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


class Child:
    """A forked process. ``replica`` is None for the controller and the proxies, which ``number`` tells apart."""

    def __init__(self, role: str, pid: int, mark: int, number: int, replica: ReplicaProcess | None) -> None:
        self.role = role
        self.pid = pid
        self.mark = mark
        self.number = number
        self.replica = replica
        self.killed = False
        self.exit_code: int | None = None
        self.started_at = time.monotonic()

    def kill(self) -> None:
        """At once, with what it has started."""
        self.killed = True
        kill_group(self.pid)


class Children:
    """The children of this process that it has forked itself, as long as they are not reaped.

    Args:
        ended: told of each one that has ended, and why.
    """

    def __init__(self, ended: Callable[[Child, str], None]) -> None:
        self._ended = ended
        self._children: dict[int, Child] = {}
        self._marks = Marks()
        self._oom_kills = OOMKills()

    def fork(
        self,
        role: str,
        title: str,
        main: Callable[[], None],
        *,
        close: Iterable[int],
        number: int = 0,
        replica: ReplicaProcess | None = None,
    ) -> Child:
        """Run ``main`` in a new child, which closes those descriptors first. Raises OSError."""
        mark = self._marks.new()
        pid = fork(title, main, close=list(close), mark=mark)
        child = self._children[pid] = Child(role, pid, mark, number, replica)
        return child

    def of(self, role: str) -> list[Child]:
        """Those with this role."""
        return [child for child in self._children.values() if child.role == role]

    def kill_all(self) -> None:
        for child in self._children.values():
            kill_group(child.pid)

    def reap(self) -> None:
        """Collect all that have ended, and end what those have left behind."""
        while True:
            try:
                # Peek first: while the leader is a zombie its process group cannot be anybody else's.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                break
            child = self._children.pop(found.si_pid, None)
            if child is not None:
                kill_group(found.si_pid)
            os.waitid(os.P_PID, found.si_pid, os.WEXITED)
            if child is not None:
                child.exit_code = exit_code(found.si_code, found.si_status)
                self._ended(child, self._cause(child, found.si_code, found.si_status))
        kill_orphans(self._children, {child.mark for child in self._children.values()})

    def _cause(self, child: Child, code: int, status: int) -> str:
        cause = exit_cause(code, status)
        out_of_memory = self._oom_kills.happened() and cause == "killed by SIGKILL" and not child.killed
        return f"{cause} (out of memory)" if out_of_memory else cause


def share_with_children() -> None:
    """Import what user code will import, and then touch little: a page that either side writes is shared no more.

    Frozen, because the collector would touch every page. Importing after the first forks would start them a tenth of
    a second earlier and cost 6 MB.
    """
    with _without_plugins():
        import_module("salver.serve")
    gc.freeze()
    gc.enable()


@contextmanager
def _without_plugins() -> Generator[None]:
    """Keep pydantic from importing the plugins that it finds installed: they are not our code, and may start threads.
    Looking for them also takes 10 ms of each start. User code gets them, in its own processes.
    """
    before = os.environ.get(_NO_PLUGINS)
    os.environ[_NO_PLUGINS] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_PLUGINS]
        else:
            os.environ[_NO_PLUGINS] = before
