"""Writes lines without ever making who logs wait: what an outlet cannot take now is queued, or dropped and counted.

Each outlet (this process's terminal, its file) has a queue of bytes with a bound and, once there is something to
wait for, a thread that may wait: for a reader that has stopped, a slow disk. They are apart, so that a terminal that
nobody reads keeps nothing out of the file.

What can be written at once without waiting is, by who logs. So a process that crashes has said on the terminal what
it had to say; of its file it may lose the last few milliseconds.

Only the thread tells of trouble, to the other outlet, and holds no lock meanwhile. The lock is reentrant, since the
collector may run a user's ``__del__``, which may log, at any moment.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from salver.telemetry.metrics import registry

MOST_QUEUED_BYTES = 4 << 20
"""Of one outlet."""

_dropped = registry.counter(
    "salver_log_dropped_total", "Log lines that could not be written, by where they should have gone.", ("outlet",)
)


class Outlet(Protocol):
    """Where bytes go."""

    name: str

    def write(self, data: bytes) -> None:
        """All of it, however long it takes. Raises OSError when it cannot be done."""
        ...

    def write_now(self, data: bytes) -> int:
        """As much as can be without waiting, whole lines; 0 when that cannot be known or nothing can be written."""
        ...

    def forked(self) -> None:
        """This is a child process now, and shares what is open with its parent."""
        ...

    def close(self) -> None: ...


class LogQueue:
    """One outlet and its queue.

    Args:
        note: makes a line of what we have to say about dropped lines.
    """

    def __init__(self, outlet: Outlet, note: Callable[[str], bytes], *, most_bytes: int = MOST_QUEUED_BYTES) -> None:
        self._outlet = outlet
        self._note = note
        self.beside: LogQueue | None = None
        """Where trouble with this outlet is told."""
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._writing = False
        self._thread: threading.Thread | None = None
        self._in_child = False
        self._closed = False
        self._lost = 0
        """Lines since the last that was written; whoever finds it above 0 leaves writing to the thread."""
        self._told = False
        _queues.add(self)

    @property
    def name(self) -> str:
        return self._outlet.name

    def write(self, data: bytes) -> None:
        """Write whole lines, at once or soon or never. Never waits, never raises. Any thread."""
        if self._in_child:
            self._write_in_child(data)
            return
        with self._changed:
            if not self._pending and not self._writing and not self._lost:
                data = data[self._outlet.write_now(data) :]
                if not data:
                    return
            elif self._pending_bytes + len(data) > self._most_bytes:
                self._lose(data)
                return
            self._pending.append(data)
            self._pending_bytes += len(data)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush(self, within_s: float) -> bool:
        """Wait until everything has been written, or ``within_s`` seconds; whether it has been."""
        if self._in_child:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._writing, within_s)

    def close(self) -> None:
        """Let the thread write what there is, and end."""
        with self._changed:
            self._closed = True
            if self._thread is None:
                self._outlet.close()
            self._changed.notify_all()

    # --- the thread -------------------------------------------------------------------------------------

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"salver log {self._outlet.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._pending.clear()
            self._pending_bytes = 0
        else:
            self._thread = thread

    def _run(self) -> None:
        while data := self._next():
            try:
                self._outlet.write(data)
            except OSError as error:
                self._failed(data, error)
            else:
                self._worked()

        self._outlet.close()

    def _next(self) -> bytes:
        """Everything that waits to be written, when there is something; empty when this is closed."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending or self._closed)
            data = b"".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            self._writing = bool(data)
            return data

    def _failed(self, data: bytes, error: OSError) -> None:
        with self._changed:
            self._lose(data)
        if not self._told:
            self._told = True
            self._tell_beside(f"log lines are being dropped: cannot write to {self._outlet.name}: {error.strerror}")

    def _worked(self) -> None:
        with self._changed:
            lost, self._lost = self._lost, 0
        if lost:
            self._told = False
            text = f"{lost} log lines were dropped that {self._outlet.name} could not take; it works again"
            self.write(self._note(text))
            self._tell_beside(text)

    def _tell_beside(self, text: str) -> None:
        if self.beside is not None:
            self.beside.write(self._note(text))

    def _lose(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self._lost += lines
        _dropped.series((self._outlet.name,)).inc(lines)

    # --- children of user code --------------------------------------------------------------------------

    def forked(self) -> None:
        """The thread is the parent's, and so is what it had not written. A child writes by itself, and may wait."""
        self._in_child = True
        self._changed = threading.Condition()
        self._pending = []
        self._thread = None
        self._outlet.forked()

    def _write_in_child(self, data: bytes) -> None:
        try:
            self._outlet.write(data)
        except OSError:
            self._lose(data)


_queues: weakref.WeakSet[LogQueue] = weakref.WeakSet()


def _forked() -> None:
    for queue in list(_queues):
        queue.forked()


os.register_at_fork(after_in_child=_forked)
