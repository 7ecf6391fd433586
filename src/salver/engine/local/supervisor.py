"""The supervisor: forks every other process of an instance, and ends them.

It is small on purpose. No user code, no network input, no threads and no event loop (a ``selectors`` loop), so that
``fork`` is safe at any time; what children need is imported here, once, so that a child starts in milliseconds and
shares the memory. It owns the listening sockets: a proxy or controller that dies leaves
the connections that wait to be accepted to its successor.

It ends with its last reason to live: the process that started it (watched by pidfd and by a pipe), or SIGTERM. On
SIGTERM proxies finish what they have, then the controller stops deciding, then replicas finish; a second SIGTERM ends
everything at once.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import msgspec
from msgspec.structs import replace
from setproctitle import setproctitle

from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions
from salver.data.load_board import SLOTS, clear_slot
from salver.engine.interface import Exited, NotStarted, ReplicaProcess, Started
from salver.engine.local.client import stack_file
from salver.engine.local.controller_link import ControllerLink
from salver.engine.local.instance import Instance
from salver.engine.local.link import (
    DumpStack,
    KillProcess,
    ListProcesses,
    ProcessList,
    StartProcess,
    ToSupervisor,
)
from salver.engine.local.log_folder import say_as_supervisor
from salver.engine.local.oom import OOMKills
from salver.engine.local.orphans import Marks, kill_orphans
from salver.engine.local.process import become_subreaper, end_children, exit_cause, fork, kill_group
from salver.engine.local.restart import Restart
from salver.engine.local.roles import RunController, run_controller, run_proxy, run_replica
from salver.engine.local.settings import DEFAULT_SETTINGS, InstanceSettings
from salver.engine.local.stacks import ask_main_thread, ask_running_thread
from salver.records import Capacity

_GRACE_S = 21.0
_CRASHES = frozenset(f"killed by SIG{name}" for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL"))
_STACK_CHARACTERS = 8000
_STOP_ORDER = ("proxy", "controller", "replica")


class Child:
    """A forked process. ``replica`` is None for the controller and the proxies."""

    def __init__(
        self, role: str, pid: int, mark: int, number: int = 0, replica: ReplicaProcess | None = None
    ) -> None:
        self.role = role
        self.pid = pid
        self.mark = mark
        self.number = number
        self.replica = replica
        self.killed = False
        self.started_at = time.monotonic()


class Supervisor:
    """One instance's root process.

    Args:
        instance: its folder.
        http: sockets that listen for clients; control, routing: that listen for our own processes.
        proxies: how many proxies share the HTTP sockets.
        lifeline: end of a pipe whose other end the starting process holds.
        controller: what the controller's process runs.
        starter: pid of the starting process.
        proxy_options: for every proxy, the restarted ones too.
        admin: sockets that listen for the control API on TCP.
        capacity: what replicas can reserve of this machine.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        http: list[socket.socket],
        control: socket.socket,
        routing: socket.socket,
        proxies: int,
        lifeline: int,
        lock: int,
        starter: int,
        proxy_options: ProxyOptions = DEFAULT_PROXY_OPTIONS,
        admin: Sequence[socket.socket] = (),
        capacity: Capacity = DEFAULT_SETTINGS.capacity,
        controller: RunController = run_controller,
    ) -> None:
        self._instance = instance
        self._key = instance.key()
        self._http = http
        self._control = control
        self._routing = routing
        self._proxies = proxies
        self._lifeline = lifeline
        self._lock = lock
        self._starter = starter
        self._proxy_options = proxy_options
        self._admin = admin
        self._capacity = capacity
        self._run_controller = controller
        self._children: dict[int, Child] = {}
        self._replicas: dict[str, Child] = {}
        self._restarts: dict[tuple[str, int], Restart] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._marks = Marks()
        self._oom_kills = OOMKills()
        self._epoch = 0
        self._selector = selectors.DefaultSelector()
        self._link = ControllerLink(self._selector, self._obey)
        self._stopping: str | None = None
        self._over = False

    # --- the loop ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start everything, watch it, return when all of it has ended."""
        become_subreaper()
        self._watch_signals()
        self._watch_starter()
        share_with_children()
        self._start_controller()
        for number in range(self._proxies):
            self._start_proxy(number)
        while not self._over:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            self._run_due()

    def _watch_signals(self) -> None:
        self._signals, writer = socket.socketpair()
        self._signals.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._signal_writer = writer
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, _noted_by_the_wakeup_descriptor)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the command line to interpret
        self._selector.register(self._signals, selectors.EVENT_READ, self._read_signals)

    def _watch_starter(self) -> None:
        """Two ways to see the starter die: the pipe, and a pidfd for when a fork of it still holds the pipe."""
        if not self._starter:
            self._starter_fd = os.open(os.devnull, os.O_RDONLY)  # detached: nobody's end is ours
            return
        self._selector.register(self._lifeline, selectors.EVENT_READ, self._end_now)
        try:
            self._starter_fd = os.pidfd_open(self._starter)
        except ProcessLookupError:
            self._end_now()
            return
        self._selector.register(self._starter_fd, selectors.EVENT_READ, self._end_now)

    def _read_signals(self) -> None:
        numbers = set(self._signals.recv(4096))
        if signal.SIGCHLD in numbers:
            self._reap()
        if signal.SIGTERM in numbers:
            if self._stopping is None:
                self._close_http()
                self._stop_next("proxy")
            else:
                self._end_now()

    def _close_http(self) -> None:
        """New clients are refused from now on, rather than left to wait for an accept that never comes."""
        for listening in self._http:
            listening.close()
        self._http.clear()

    def _timeout(self) -> float | None:
        return max(0.0, min(when for when, _ in self._due) - time.monotonic()) if self._due else None

    def _run_due(self) -> None:
        now = time.monotonic()
        ready = [action for when, action in self._due if when <= now]
        self._due = [entry for entry in self._due if entry[0] > now]
        for action in ready:
            action()

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + delay, action))

    # --- children ---------------------------------------------------------------------------------------

    def _fork(
        self,
        role: str,
        title: str,
        main: Callable[[], None],
        *,
        keep: list[socket.socket],
        number: int = 0,
        replica: ReplicaProcess | None = None,
    ) -> Child:
        own: list[int] = [
            self._signals.fileno(),
            self._signal_writer.fileno(),
            self._lifeline,
            self._lock,
            self._starter_fd,
            self._selector_fd(),
        ]
        shared: list[socket.socket] = [*self._http, self._control, self._routing, *self._admin]
        if self._link.socket is not None and role != "controller":
            shared.append(self._link.socket)
        close = own + [each.fileno() for each in shared if each not in keep]
        mark = self._marks.new()
        pid = fork(title, main, close=close, mark=mark)
        child = self._children[pid] = Child(role, pid, mark, number, replica)
        return child

    def _selector_fd(self) -> int:
        assert isinstance(self._selector, selectors.EpollSelector)
        return self._selector.fileno()

    def _start_controller(self) -> None:
        ours, theirs = self._link.open()
        self._epoch += 1
        epoch = time.time_ns() // 1_000_000_000 * 1000 + self._epoch
        instance, key, control, routing = self._instance, self._key, self._control, self._routing
        admin, capacity = self._admin, self._capacity

        def main() -> None:
            ours.close()
            self._run_controller(instance, key, theirs, control, routing, epoch, admin, capacity)

        self._fork("controller", "salver: controller", main, keep=[control, routing, *admin])
        theirs.close()

    def _start_proxy(self, number: int) -> None:
        instance, key, http, options = self._instance, self._key, self._http, self._proxy_options
        self._fork(
            "proxy", "salver: proxy", lambda: run_proxy(instance, key, http, options), keep=http, number=number
        )

    def _start_replica(self, process: ReplicaProcess) -> None:
        existing = self._replicas.get(process.replica_id)
        if existing is not None:
            assert existing.replica is not None
            self._link.tell(Started(existing.replica))
            return
        if self._stopping is not None:
            return  # an answer would only make the controller try again; it ends soon
        if process.slot >= SLOTS:
            self._link.tell(NotStarted(process.replica_id, f"an instance holds at most {SLOTS} replicas"))
            return
        try:
            self._link.tell(Started(self._fork_replica(process)))
        except OSError as error:
            self._link.tell(NotStarted(process.replica_id, f"could not fork: {error.strerror}"))

    def _fork_replica(self, process: ReplicaProcess) -> ReplicaProcess:
        """Bind its socket first: whoever dials from now on waits in the backlog until the replica is up."""
        path = self._socket_path(process.replica_id)
        path.unlink(missing_ok=True)
        clear_slot(self._instance.board, process.slot)
        instance, key, gpus = self._instance, self._key, self._capacity.gpus
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(256)
            child = self._fork(
                "replica",
                f"salver: replica {process.replica_id}",
                lambda: run_replica(instance, key, process, listening, gpus),
                keep=[],
                replica=process,
            )
        child.replica = replace(process, pid=child.pid, address=f"unix:{path}")
        self._replicas[process.replica_id] = child
        return child.replica

    def _socket_path(self, replica_id: str) -> Path:
        return self._instance.replica_sockets / replica_id.rsplit("#", 1)[-1]

    def _reap(self) -> None:
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
                self._child_ended(child, self._cause(child, found.si_code, found.si_status))
        kill_orphans(self._children, {child.mark for child in self._children.values()})

    def _cause(self, child: Child, code: int, status: int) -> str:
        cause = exit_cause(code, status)
        out_of_memory = self._oom_kills.happened() and cause == "killed by SIGKILL" and not child.killed
        return f"{cause} (out of memory)" if out_of_memory else cause

    def _child_ended(self, child: Child, cause: str) -> None:
        if child.replica is not None:
            replica_id = child.replica.replica_id
            del self._replicas[replica_id]
            self._socket_path(replica_id).unlink(missing_ok=True)
            self._link.tell(Exited(replica_id, cause, self._take_stack(replica_id, cause)))
        elif child.role == "controller":
            self._link.drop()
        if self._stopping is not None:
            self._stop_next(self._stopping)
        elif child.replica is None:
            self._restart(child, cause)

    def _take_stack(self, replica_id: str, cause: str) -> str:
        """What faulthandler wrote when it crashed; the file goes with the replica."""
        path = stack_file(self._instance.folder, replica_id)
        try:
            return path.read_text(errors="replace")[-_STACK_CHARACTERS:] if cause in _CRASHES else ""
        except OSError:
            return ""
        finally:
            path.unlink(missing_ok=True)

    def _restart(self, child: Child, cause: str) -> None:
        delay = self._restarts.setdefault((child.role, child.number), Restart()).delay_after(
            time.monotonic() - child.started_at
        )
        say_as_supervisor(self._instance, f"the {child.role} {cause}; starting it again")
        self._later(delay, lambda: self._start_again(child))

    def _start_again(self, child: Child) -> None:
        if self._stopping is None:
            if child.role == "controller":
                self._start_controller()
            else:
                self._start_proxy(child.number)

    # --- the controller ---------------------------------------------------------------------------------

    def _obey(self, message: ToSupervisor) -> None:
        if isinstance(message, StartProcess):
            self._start_replica(message.process)
        elif isinstance(message, KillProcess):
            child = self._replicas.get(message.replica_id)
            if child is None:
                self._link.tell(Exited(message.replica_id, "was not running"))
            else:
                child.killed = True
                kill_group(child.pid)
        elif isinstance(message, DumpStack):
            child = self._replicas.get(message.replica_id)
            if child is not None:
                (ask_running_thread if message.runs else ask_main_thread)(child.pid)
        else:
            assert isinstance(message, ListProcesses)
            running = tuple(child.replica for child in self._replicas.values() if child.replica is not None)
            proxies = tuple(child.pid for child in self._children.values() if child.role == "proxy")
            self._link.tell(ProcessList(running, proxies))

    # --- the end ----------------------------------------------------------------------------------------

    def _stop_next(self, role: str) -> None:
        """Ask all of ``role`` to end; when none is left, go on to the next role."""
        first_time = self._stopping != role
        self._stopping = role
        remaining = [child for child in self._children.values() if child.role == role]
        if remaining:
            if first_time:
                for child in remaining:
                    os.kill(child.pid, signal.SIGTERM)
                self._later(_GRACE_S, lambda: self._kill_role(role))
            return
        position = _STOP_ORDER.index(role) + 1
        if position < len(_STOP_ORDER):
            self._stop_next(_STOP_ORDER[position])
        else:
            self._finish()

    def _kill_role(self, role: str) -> None:
        for child in self._children.values():
            if child.role == role:
                kill_group(child.pid)

    def _end_now(self) -> None:
        """Kill everything; nobody is left to be polite to."""
        for child in self._children.values():
            kill_group(child.pid)
        self._finish()

    def _finish(self) -> None:
        """What user code made sessions of, out of its replica's reach, ends here at the latest."""
        self._over = True
        end_children()
        self._instance.remove()


def _noted_by_the_wakeup_descriptor(_number: int, _frame: object) -> None:
    """A handler must exist for the descriptor to be written."""


def main() -> None:
    """Entry point: ``FOLDER PROXIES LIFELINE LOCK STARTER ADMINS CONTROL ROUTING OPTIONS ADMIN... HTTP...``, where
    ADMINS is how many ADMIN there are, and what follows it are descriptors. OPTIONS is a file in memory with the
    settings of the instance: a password in it must not be an argument.
    """
    gc.disable()  # importing makes no garbage worth looking for (a tenth of the time to start)
    folder, *numbers = sys.argv[1:]
    proxies, lifeline, lock, starter, admins, control, routing, options, *tcp = [int(number) for number in numbers]
    instance = Instance(Path(folder))
    setproctitle(f"salver: supervisor {instance.name}")
    with open(options, "rb") as file:
        settings = msgspec.json.decode(file.read(), type=InstanceSettings)
    supervisor = Supervisor(
        instance,
        http=[socket.socket(fileno=number) for number in tcp[admins:]],
        admin=[socket.socket(fileno=number) for number in tcp[:admins]],
        control=socket.socket(fileno=control),
        routing=socket.socket(fileno=routing),
        proxies=proxies,
        lifeline=lifeline,
        lock=lock,
        starter=starter,
        proxy_options=settings.proxy,
        capacity=settings.capacity,
    )
    supervisor.run()


def share_with_children() -> None:
    """Import what user code will import, and then touch little: a page that either side writes is shared no more.

    Frozen, because the collector would touch every page. Importing after the first forks would start them a tenth of
    a second earlier and cost 6 MB.
    """
    import_module("salver.serve")
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
