"""What a command does that stays: has children do things, follows an instance, ends what it began.

Such a process stays for as long as the application runs, so it stays small: the user's modules, and ours for
building, are imported in a child that ends when the application runs. With transformers that is several hundred
megabytes. What it has itself it shares with all that it has forked.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from salver.cli.children import in_child
from salver.cli.output import fail, say
from salver.engine.local.instance import Instance
from salver.engine.local.launcher import LaunchedInstance
from salver.engine.local.library_pages import give_back_library_pages
from salver.engine.local.process import become_subreaper, end_children
from salver.engine.local.service import ServiceManager

_DELETE_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.5


class Hold:
    """A command's hold on an instance: the one that it launched, or one that it joined with one application.

    Args:
        instance: which.
        launched: set when it is ours.
        application: in an instance that we joined, what ends with us.
        manager: hears that we are ready, and that we stop.
    """

    def __init__(
        self,
        instance: Instance,
        launched: LaunchedInstance | None,
        application: str | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self.instance = instance
        self.launched = launched
        self._application = application
        self._manager = manager
        self._since = time.time()
        if launched is not None:
            become_subreaper()  # the supervisor is one; if it dies, its orphans come to us to be ended

    def do(self, work: Callable[[], None]) -> None:
        """Do ``work`` until it returns, or Ctrl-C or SIGTERM ends it and what we began; the second one at once."""
        with interrupted_by_signals():
            try:
                try:
                    work()
                except KeyboardInterrupt:
                    self.tell("STOPPING=1")
                    say("Stopping; Ctrl-C again to stop at once.")
                    self._end_politely()
                except BaseException:
                    self._end()
                    raise
            except KeyboardInterrupt:
                if self.launched is not None:
                    self.launched.kill()
                sys.exit(130)

    def tell(self, *news: str) -> None:
        """What the service manager is to hear, if there is one."""
        if self._manager is not None:
            self._manager.tell(*news)

    def have_done(self, title: str, main: Callable[[], None]) -> int:
        """Have a child do it (``in_child``); its exit code. It is given up when the instance ends."""
        return in_child(title, main, close=self.not_for_children, wait=self.wait_for)

    @property
    def not_for_children(self) -> list[int]:
        return [self.launched.lifeline] if self.launched is not None and self.launched.lifeline is not None else []

    @property
    def is_over(self) -> bool:
        """Whether the instance that we launched has ended: ``follow`` says why."""
        return self.launched is not None and not self.launched.alive

    def wait_for(self, descriptor: int) -> bool:
        """Wait until something can be read from it, or the instance has ended; whether the former."""
        if self.launched is None:
            while not select.select([descriptor], [], [], _LOOK_EVERY_S)[0]:
                if not self.instance.is_running():
                    return False
            return True
        if not self.launched.alive:
            return False
        end = os.pidfd_open(self.launched.pid)
        try:
            return descriptor in select.select([descriptor, end], [], [])[0]
        finally:
            os.close(end)

    def follow(self) -> None:
        """Stay until the instance ends. Its processes write to this terminal themselves."""
        give_back_library_pages()
        if self.launched is not None:
            self.launched.wait()
            if not self.launched.ended_as_asked:
                end_children()
                fail("Salver's processes have ended unexpectedly; see the messages above.", 1)
        while self.instance.is_running():
            time.sleep(_LOOK_EVERY_S)
        say("The instance has ended.")

    def _end(self) -> None:
        if self.launched is not None:
            self.launched.stop()

    def _end_politely(self) -> None:
        """End the instance; in one that we joined, our application.

        The application goes if it was deployed since we came: an interrupted build may not have come so far, and
        then the one of that name is another's.
        """
        self._end()
        if self.launched is None and self._application is not None and self.instance.is_running():
            from salver.controller.client import ControlClient  # only here: this process stays, and stays small

            control = ControlClient(self.instance.control_socket)
            views = control.status().applications
            if any(view.name == self._application and view.last_deployed_time_s >= self._since for view in views):
                control.delete(self._application, _DELETE_WITHIN_S)


@contextmanager
def interrupted_by_signals() -> Generator[None, None, None]:
    """SIGTERM does what Ctrl-C does, and so does SIGHUP, unless ``nohup``: KeyboardInterrupt in the main thread."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    if number == signal.SIGHUP:  # a terminal that goes says so more than once: it does not mean "at once"
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt
