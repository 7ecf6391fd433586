"""Starting the supervisor, in one of two ways.

A command of ours forks it: it imports what all processes need, once, so that the supervisor is there at once, and the
command and everything below it share one copy in memory. Only where nothing but our code runs, in one thread, is that
safe, and small. Everywhere else (``serve.run`` in a user's script) the supervisor is an interpreter of its own, which
imports for itself.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Protocol

import msgspec
from msgspec import Struct

from salver.engine.local.instance import Instance
from salver.engine.local.process import fork
from salver.engine.local.settings import InstanceSettings, Listening

_SPAWNED = "from salver.engine.local.supervisor_process import main; main()"


@dataclass(frozen=True)
class SupervisorStart:
    """What a supervisor is given.

    Attributes:
        instance: its folder.
        listening: its sockets.
        proxies: how many proxies share the HTTP sockets.
        lifeline: end of a pipe whose other end the starting process holds.
        lock: descriptor of the folder's lock.
        starter: pid of the starting process; 0 when the instance is to outlive it.
        settings: for all processes, the restarted ones too.
    """

    instance: Instance
    listening: Listening
    proxies: int
    lifeline: int
    lock: int
    starter: int
    settings: InstanceSettings

    def descriptors(self) -> list[int]:
        """All that must stay open."""
        return [self.lifeline, self.lock, *(each.fileno() for each in self.listening.all())]


class SupervisorProcess(Protocol):
    """The supervisor, as its parent sees it: what ``subprocess.Popen`` has, too."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None while it lives."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises ``subprocess.TimeoutExpired``."""
        ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


# --- an interpreter of its own ------------------------------------------------------------------------------


class _Spawned(Struct):
    """``SupervisorStart`` for another interpreter: descriptors instead of objects. It goes through a file in memory,
    as it may hold a password, which must not be an argument.
    """

    folder: str
    http: list[int]
    admin: list[int]
    control: int
    routing: int
    proxies: int
    lifeline: int
    lock: int
    starter: int
    settings: InstanceSettings


def spawn_supervisor(start: SupervisorStart, output: BinaryIO | None) -> SupervisorProcess:
    """Start it as a new interpreter.

    Args:
        start: what it is given.
        output: its stdout and stderr; default ours.
    """
    listening = start.listening
    told = _Spawned(
        str(start.instance.folder),
        http=[each.fileno() for each in listening.http],
        admin=[each.fileno() for each in listening.admin],
        control=listening.control.fileno(),
        routing=listening.routing.fileno(),
        proxies=start.proxies,
        lifeline=start.lifeline,
        lock=start.lock,
        starter=start.starter,
        settings=start.settings,
    )
    with os.fdopen(os.memfd_create("salver-start"), "w+b") as file:
        file.write(msgspec.json.encode(told))
        file.seek(0)
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-c", _SPAWNED, str(file.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[file.fileno(), *start.descriptors()],
            start_new_session=True,
        )


def received(descriptor: int) -> SupervisorStart:
    """In the new interpreter: what ``spawn_supervisor`` was given."""
    with open(descriptor, "rb") as file:
        told = msgspec.json.decode(file.read(), type=_Spawned)
    return SupervisorStart(
        Instance(Path(told.folder)),
        Listening(
            http=[socket.socket(fileno=number) for number in told.http],
            admin=[socket.socket(fileno=number) for number in told.admin],
            control=socket.socket(fileno=told.control),
            routing=socket.socket(fileno=told.routing),
        ),
        proxies=told.proxies,
        lifeline=told.lifeline,
        lock=told.lock,
        starter=told.starter,
        settings=told.settings,
    )


# --- a fork of this process ---------------------------------------------------------------------------------


def fork_supervisor(start: SupervisorStart, output: BinaryIO | None) -> SupervisorProcess:
    """Start it as a child of this process, which must have no other threads. Arguments as of ``spawn_supervisor``."""
    gc.disable()  # importing makes no garbage worth looking for (a tenth of the time to start)
    run = import_module("salver.engine.local.supervisor_process").run
    import_module("salver.engine.local.children").share_with_children()
    main = partial(_leave_command, start, output, run)
    return _Forked(fork(f"salver: supervisor {start.instance.name}", main, close=[], tied=False))


def _leave_command(start: SupervisorStart, output: BinaryIO | None, run: Callable[[SupervisorStart], None]) -> None:
    """In the child: have nothing of the command that a new interpreter would not have, but what is imported."""
    keep = {0, 1, 2, *start.descriptors()}
    null = os.open(os.devnull, os.O_RDWR)
    for standard, file in ((0, null), (1, output and output.fileno()), (2, output and output.fileno())):
        if file is not None and standard not in start.descriptors():
            os.dup2(file, standard)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in keep:
            with suppress(OSError):  # that of the listing itself
                os.close(number)
    sys.modules["__main__"] = ModuleType("__main__")  # multiprocessing would run the command's in its children
    del sys.argv[1:]  # nor are its arguments for the user's code
    if not sys.flags.safe_path:
        del sys.path[0]  # where the command's script is
    run(start)


class _Forked:
    """A child that was forked, with the methods of ``subprocess.Popen`` that are used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None and timeout is not None and not self._ends_within(timeout):
            raise subprocess.TimeoutExpired("salver: supervisor", timeout)
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _ends_within(self, timeout: float) -> bool:
        end = os.pidfd_open(self.pid)
        try:
            return bool(select.select([end], [], [], timeout)[0])
        finally:
            os.close(end)

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:  # else the pid may be another's
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
