"""The supervisor: what runs of an instance, and in which order it ends.

It is small on purpose. No user code, no network input, no threads and no event loop (a ``selectors`` loop), so that
``fork`` is safe at any time; what children need is imported here, once, so that a child starts in milliseconds and
shares the memory. It owns the listening sockets: a proxy or controller that dies leaves the connections that wait to
be accepted to its successor.

It starts the controller and the proxies again when they end, and kills those that do not answer (``pulse``); replicas
it only starts and kills when the controller says so.

It ends with its last reason to live: the process that started it (watched by pidfd and by a pipe), or SIGTERM. On
SIGTERM proxies finish what they have, then the controller stops deciding, then replicas finish; a second SIGTERM ends
everything at once.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from salver.engine.interface import Exited, Restarted
from salver.engine.local.children import Child, Children, share_with_children
from salver.engine.local.controller_link import ControllerLink
from salver.engine.local.instance import Instance
from salver.engine.local.link import DumpStack, KillProcess, ListProcesses, ProcessList, StartProcess, ToSupervisor
from salver.engine.local.log_folder import say_as_supervisor
from salver.engine.local.process import become_subreaper, end_children
from salver.engine.local.pulse import SILENT_S, Pulse
from salver.engine.local.replica_children import ReplicaChildren
from salver.engine.local.restart import Restart
from salver.engine.local.roles import RunController, run_controller, run_proxy
from salver.engine.local.selector_loop import SelectorLoop
from salver.engine.local.settings import DEFAULT_SETTINGS, ControllerStart, InstanceSettings, Listening
from salver.engine.local.stacks import ask_main_thread, ask_running_thread

_GRACE_S = 21.0
_AGAIN_S = 1.0
_STOP_ORDER = ("proxy", "controller", "replica")


class Supervisor:
    """One instance's root process.

    Args:
        instance: its folder.
        listening: its sockets.
        proxies: how many proxies share the HTTP sockets.
        lifeline: end of a pipe whose other end the starting process holds.
        lock: descriptor of the folder's lock.
        starter: pid of the starting process; 0 when the instance is to outlive it.
        settings: for all processes, the restarted ones too.
        controller: what the controller's process runs.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        listening: Listening,
        proxies: int,
        lifeline: int,
        lock: int,
        starter: int,
        settings: InstanceSettings = DEFAULT_SETTINGS,
        controller: RunController = run_controller,
    ) -> None:
        self._instance = instance
        self._key = instance.key()
        self._listening = listening
        self._proxies = proxies
        self._lifeline = lifeline
        self._lock = lock
        self._starter = starter
        self._settings = settings
        self._run_controller = controller
        self._loop = SelectorLoop()
        self._link = ControllerLink(self._loop, self._obey)
        self._children = Children(self._child_ended)
        self._replicas = ReplicaChildren(
            instance, self._key, settings.capacity.gpus, self._children, self._not_for_children
        )
        self._pulses: dict[Child, Pulse] = {}
        self._restarts: dict[tuple[str, int], Restart] = {}
        self._untold: dict[tuple[str, int], Restarted] = {}
        self._controller_listens = False
        self._epoch = 0  # counts, as saved states do: a clock that is set back would make new ones old
        self._stopping: str | None = None

    def run(self) -> None:
        """Start everything, watch it, return when all of it has ended."""
        become_subreaper()
        self._loop.heed_signals({signal.SIGCHLD: self._children.reap, signal.SIGTERM: self._terminated})
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the command line to interpret
        self._watch_starter()
        share_with_children()
        self._start("controller")
        for number in range(self._proxies):
            self._start("proxy", number)
        self._loop.run()

    def _watch_starter(self) -> None:
        """Two ways to see the starter die: the pipe, and a pidfd for when a fork of it still holds the pipe."""
        if not self._starter:
            return
        self._loop.watch(self._lifeline, self._end_now)
        try:
            self._loop.watch(os.pidfd_open(self._starter), self._end_now)
        except ProcessLookupError:
            self._end_now()

    # --- starting, and starting again -------------------------------------------------------------------

    def _not_for_children(self, *given: socket.socket) -> list[int]:
        """Our descriptors, but those of sockets that a child is ``given``."""
        listening = [each.fileno() for each in self._listening.all() if each not in given]
        return list({*self._loop.descriptors(), self._lifeline, self._lock, *listening})

    def _start(self, role: str, number: int = 0) -> None:
        """A controller or proxy. Where a process cannot be had now it is tried again."""
        if self._stopping is not None:
            return
        try:
            if role == "controller":
                self._start_controller()
            else:
                self._start_proxy(number)
            self._tell_of_restarts()
        except OSError as error:
            say_as_supervisor(self._instance, f"the {role} cannot be started: {error}")
            self._loop.later(_AGAIN_S, partial(self._start, role, number))

    def _start_controller(self) -> None:
        self._epoch += 1
        epoch, instance, key = self._epoch, self._instance, self._key
        settings, listening = self._settings, self._listening
        with self._link.open() as link:
            self._fork(
                "controller",
                lambda pulse: self._run_controller(
                    ControllerStart(instance, key, epoch, link, pulse, listening, settings)
                ),
                keep=[listening.control, listening.routing, *listening.admin],
            )

    def _start_proxy(self, number: int) -> None:
        http = self._listening.http
        run = partial(run_proxy, self._instance, self._key, http, self._settings.proxy)
        self._fork("proxy", run, keep=http, number=number)

    def _fork(
        self, role: str, run: Callable[[socket.socket], None], *, keep: Sequence[socket.socket], number: int = 0
    ) -> None:
        """A process that is to answer: ``run`` is given the socket on which it is asked."""
        pulse = Pulse(self._loop)
        try:
            close = self._not_for_children(*keep)
            main = partial(run, pulse.theirs)
            child = self._children.fork(role, f"salver: {role}", main, close=close, number=number)
        except OSError:
            pulse.stop()
            raise
        self._pulses[child] = pulse
        pulse.start(partial(self._kill_silent, child))

    def _kill_silent(self, child: Child) -> None:
        text = f"the {child.role} (pid {child.pid}) has not answered for {SILENT_S:.0f} s: it is stopped or hangs"
        say_as_supervisor(self._instance, f"{text}; killing it")
        child.kill()

    def _child_ended(self, child: Child, cause: str) -> None:
        if child.replica is not None:
            self._link.tell(self._replicas.ended(child.replica.replica_id, cause))
        else:
            self._pulses.pop(child).stop()
            if child.role == "controller":
                self._link.drop()
                self._controller_listens = False
        if self._stopping is not None:
            self._stop_next(self._stopping)
        elif child.replica is None:
            self._restart(child, cause)

    def _restart(self, child: Child, cause: str) -> None:
        delay = self._restarts.setdefault((child.role, child.number), Restart()).delay_after(
            time.monotonic() - child.started_at
        )
        ended = _in_words(child, cause)
        say_as_supervisor(self._instance, f"the {child.role} {ended}; starting it again")
        before = self._untold.get((child.role, child.number))
        times = 1 if before is None else before.times + 1
        self._untold[child.role, child.number] = Restarted(child.role, ended, times)
        self._loop.later(delay, partial(self._start, child.role, child.number))

    def _tell_of_restarts(self) -> None:
        """What has ended and runs again, once, and not before a controller is there that will remember it."""
        if not self._controller_listens:
            return
        for role in ("controller", "proxy"):
            for child in self._children.of(role):
                restarted = self._untold.pop((role, child.number), None)
                if restarted is not None:
                    self._link.tell(restarted)

    # --- what the controller says -----------------------------------------------------------------------

    def _obey(self, message: ToSupervisor) -> None:
        if isinstance(message, StartProcess):
            if self._stopping is None:  # an answer would only make the controller try again; it ends soon
                self._link.tell(self._replicas.start(message.process))
        elif isinstance(message, KillProcess):
            child = self._replicas.find(message.replica_id)
            if child is None:
                self._link.tell(Exited(message.replica_id, "was not running"))
            else:
                child.kill()
        elif isinstance(message, DumpStack):
            child = self._replicas.find(message.replica_id)
            if child is not None:
                (ask_running_thread if message.runs else ask_main_thread)(child.pid)
        else:
            assert isinstance(message, ListProcesses)
            proxies = tuple(child.pid for child in self._children.of("proxy"))
            self._link.tell(ProcessList(self._replicas.running(), proxies))
            self._controller_listens = True  # it asks when it has what was saved, not before
            self._tell_of_restarts()

    # --- the end ----------------------------------------------------------------------------------------

    def _terminated(self) -> None:
        if self._stopping is None:
            self._close_http()
            self._stop_next("proxy")
        else:
            self._end_now()

    def _close_http(self) -> None:
        """New clients are refused from now on, rather than left to wait for an accept that never comes."""
        for listening in self._listening.http:
            listening.close()
        self._listening.http.clear()

    def _stop_next(self, role: str) -> None:
        """Ask all of ``role`` to end; when none is left, go on to the next role."""
        first_time = self._stopping != role
        self._stopping = role
        remaining = self._children.of(role)
        if remaining:
            if first_time:
                for child in remaining:
                    os.kill(child.pid, signal.SIGTERM)
                self._loop.later(_GRACE_S, partial(self._kill_role, role))
            return
        position = _STOP_ORDER.index(role) + 1
        if position < len(_STOP_ORDER):
            self._stop_next(_STOP_ORDER[position])
        else:
            self._finish()

    def _kill_role(self, role: str) -> None:
        for child in self._children.of(role):
            child.kill()

    def _end_now(self) -> None:
        """Kill everything; nobody is left to be polite to."""
        self._children.kill_all()
        self._finish()

    def _finish(self) -> None:
        """What user code made sessions of, out of its replica's reach, ends here at the latest."""
        self._loop.end()
        end_children()
        self._instance.remove()


def _in_words(child: Child, cause: str) -> str:
    """What became of a controller or proxy, after its name."""
    if child.killed:
        return f"did not answer for {SILENT_S:.0f} s and was {cause}"
    return f"was {cause}" if cause.startswith("killed") else cause
