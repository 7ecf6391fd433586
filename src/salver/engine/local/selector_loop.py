"""The supervisor's loop: descriptors, timers and signals, one after the other in its only thread.

No event loop does this, because what forks must not have threads, callbacks in flight or anything else that a child
would have to undo: a child only closes the ``descriptors`` of this.
"""

from __future__ import annotations

import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol

Action = Callable[[], None]


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class SelectorLoop:
    """Calls actions when something has happened, until ``end``."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._due: list[tuple[float, Action]] = []
        self._signals, self._signal_writer = socket.socketpair()
        self._signals.setblocking(False)
        self._signal_writer.setblocking(False)
        self._signal_actions: Mapping[int, Action] = {}
        self._ended = False

    def watch(self, file: HasDescriptor | int, action: Action) -> None:
        """Call ``action`` whenever there is something to read."""
        self._selector.register(file, selectors.EVENT_READ, action)

    def forget(self, file: HasDescriptor | int) -> None:
        """Watch it no more; to be called before it is closed."""
        self._selector.unregister(file)

    def later(self, delay_s: float, action: Action) -> None:
        """Call ``action`` once, in ``delay_s`` seconds."""
        self._due.append((time.monotonic() + delay_s, action))

    def heed_signals(self, actions: Mapping[int, Action]) -> None:
        """Call an action when its signal has come: not in the midst of something, as Python's handlers are."""
        self._signal_actions = actions
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        for number in actions:
            signal.signal(number, _noted_by_the_wakeup_descriptor)
        self.watch(self._signals, self._read_signals)

    def descriptors(self) -> list[int]:
        """Everything that is open because of this loop, which no child may keep."""
        watched = [key.fd for key in self._selector.get_map().values()]
        return [self._selector.fileno(), self._signal_writer.fileno(), *watched]

    def run(self) -> None:
        """Until ``end``, which may have been called already."""
        while not self._ended:
            for key, _ in self._selector.select(self._timeout()):
                if not self._ended and self._selector.get_map().get(key.fd) is key:  # else it was forgotten just now
                    key.data()
            self._run_due()

    def end(self) -> None:
        """Call nothing any more."""
        self._ended = True

    def close(self) -> None:
        """Let go of what is open because of this loop; whose the watched descriptors are keeps them."""
        self._selector.close()
        self._signals.close()
        self._signal_writer.close()

    def _timeout(self) -> float | None:
        return max(0.0, min(when for when, _ in self._due) - time.monotonic()) if self._due else None

    def _run_due(self) -> None:
        now = time.monotonic()
        ready = [action for when, action in self._due if when <= now]
        self._due = [entry for entry in self._due if entry[0] > now]
        for action in ready:
            if not self._ended:
                action()

    def _read_signals(self) -> None:
        numbers = set(self._signals.recv(4096))
        for number, action in self._signal_actions.items():
            if number in numbers and not self._ended:
                action()


def _noted_by_the_wakeup_descriptor(_number: int, _frame: object) -> None:
    """A handler must exist for the descriptor to be written."""
