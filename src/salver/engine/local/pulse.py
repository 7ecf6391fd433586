"""Whether the controller or a proxy still does anything: it is asked, and its event loop answers.

A process that is stopped (SIGSTOP, a debugger) or whose event loop hangs looks alive to the kernel. A controller like
that decides nothing; a proxy like that leaves all clients that it has accepted without an answer, and where it is the
only one, new ones too. So the supervisor sends each of them a byte every 2.5 s over a socket pair that only
they have, and the event loop sends it back. Four that are not answered by the time of a fifth, so 10 to 12.5 s of
silence, and the process is to be killed, which works on stopped ones, too.

What counts is questions without an answer, not time: where everything was stopped, as when a container is frozen, no
question was asked. Replicas are not asked. User code may block their loops for as long as it likes; they have a
control thread that says so, and the controller judges.

The controller could answer over its link. But proxies have none, and two ways to say one thing are one too many.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from salver.engine.local.selector_loop import SelectorLoop

ASKED_EVERY_S = 2.5
UNANSWERED = 4
SILENT_S = ASKED_EVERY_S * UNANSWERED


class Pulse:
    """The supervisor's end, for one process.

    Attributes:
        theirs: the end that the process is given.
    """

    def __init__(self, loop: SelectorLoop) -> None:
        self._loop = loop
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._unanswered = 0
        self._ended = False
        self._open = True
        loop.watch(self._ours, self._answered)

    def start(self, silent: Callable[[], None]) -> None:
        """Begin to ask, when the process has been forked; ``silent`` is called once, if it does not answer."""
        self.theirs.close()
        self._loop.later(ASKED_EVERY_S, lambda: self._ask(silent))

    def stop(self) -> None:
        """The process has ended, or was never started."""
        self._ended = True
        self.theirs.close()
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._loop.forget(self._ours)
            self._ours.close()

    def _ask(self, silent: Callable[[], None]) -> None:
        if self._ended:
            return
        if self._unanswered == UNANSWERED:
            silent()
            return
        self._unanswered += 1
        if self._open:
            try:
                self._ours.send(b"?")
            except OSError:  # it has just closed its end
                pass
        self._loop.later(ASKED_EVERY_S, lambda: self._ask(silent))

    def _answered(self) -> None:
        try:
            data = self._ours.recv(64)
        except OSError:
            data = b""
        if data:
            self._unanswered = 0
        else:  # it will not answer any more: it ends, and has as long for that as for an answer
            self._close()


def answer(theirs: socket.socket) -> None:
    """In the process that is asked: answer for as long as the running loop runs."""
    theirs.setblocking(False)
    asyncio.get_running_loop().add_reader(theirs, _echo, theirs)


def _echo(theirs: socket.socket) -> None:
    try:
        theirs.send(theirs.recv(64))
    except OSError:
        pass
