"""Starts an instance: binds its sockets, makes its folder, spawns its supervisor.

The sockets are bound here, in the caller's process, so that a port that is taken is an error at once and in the right
place; and so that whoever dials before the other processes are up simply waits in the backlog.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from salver import __version__
from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions, is_loopback
from salver.data.load_board import create_load_board
from salver.engine.local.admin import AdminOptions
from salver.engine.local.admin_token import create_token
from salver.engine.local.capacity import NOTHING_STATED, StatedCapacity, capacity_of_this_machine
from salver.engine.local.instance import Instance, InstanceInfo, create_instance, instances_root
from salver.engine.local.log_folder import SUPERVISOR_FILE, prepare_logs
from salver.engine.local.settings import BACKLOG, InstanceSettings, Listening
from salver.engine.local.standard_streams import open_standard_streams
from salver.engine.local.supervisor_start import (
    SupervisorProcess,
    SupervisorStart,
    fork_supervisor,
    spawn_supervisor,
)
from salver.errors import ConfigurationError, StartupError
from salver.records import LoggingSpec
from salver.telemetry.log_lines import DEFAULT_LOGGING


class LaunchedInstance:
    """An instance that this process started, and that ends with it.

    ``stop`` asks politely and waits; the operating system does the rest if this process just dies.
    """

    def __init__(self, instance: Instance, process: SupervisorProcess, lifeline: int, *, detached: bool) -> None:
        self.instance = instance
        self._process = process
        self.lifeline: int | None = lifeline
        """The end of the pipe whose closing ends the instance: children of this process must not keep it."""
        self.detached = detached

    @property
    def pid(self) -> int:
        """Its supervisor's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ended_as_asked(self) -> bool:
        """Whether it has ended because somebody asked it to, not by an accident."""
        return self._process.poll() == 0

    def stop(self, timeout_s: float = 60.0) -> None:
        """Drain and end everything; after ``timeout_s`` seconds end it at once. May be called twice."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self) -> None:
        """End everything at once. May be called twice."""
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None
            if self.detached and self.alive:  # it does not watch us: a second SIGTERM means now
                self._process.send_signal(signal.SIGTERM)
                self._process.send_signal(signal.SIGTERM)
            self._process.wait(10.0)
            if not self.instance.is_running():  # else it is somebody's who has the name by now
                self.instance.remove()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the supervisor to end; whether it did."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def launch(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    proxies: int = 1,
    name: str | None = None,
    detached: bool = False,
    options: ProxyOptions = DEFAULT_PROXY_OPTIONS,
    root_url: str = "",
    listening: Sequence[socket.socket] = (),
    admin: AdminOptions | None = None,
    admin_listening: Sequence[socket.socket] = (),
    stated: StatedCapacity = NOTHING_STATED,
    logging: LoggingSpec = DEFAULT_LOGGING,
    as_service: bool = False,
    from_command: bool = False,
    awaits_deploy: bool = False,
) -> LaunchedInstance:
    """Start an instance; it serves within milliseconds of this call's return.

    Args:
        host, port: of the HTTP ingress; port 0 lets the system choose.
        proxies: how many processes share it.
        name: of the instance; default the port's number.
        detached: it outlives this process, and writes its logs to files only, instead of this terminal, too.
        options: how the ingress behaves.
        root_url: what status shows as its URL; default its address.
        listening: sockets that listen already, for HTTP, to be used instead of ``host`` and ``port``; closed here.
        admin: where the control API listens on TCP, with a token; None for nowhere.
        admin_listening: sockets that listen already, for that, to be used instead of its address; closed here.
        stated: what the user says that the machine has; the rest is found out.
        logging: how its processes log.
        as_service: it stays, so programs read its logs: JSON is the default where stderr is no terminal.
        from_command: nothing but our own code runs in this process, so that it may be forked.
        awaits_deploy: the caller is about to deploy: requests that come before wait for it.

    Raises:
        StartupError: the address cannot be had; the message says who has it, where that can be known.
        ConfigurationError: the files for TLS are not in order, the options do not fit to the address, or what is
            stated does not fit to CUDA_VISIBLE_DEVICES.
    """
    open_standard_streams()
    if listening:
        host = listening[0].getsockname()[0]
    _check(host, options)
    settings = InstanceSettings(options, capacity_of_this_machine(stated), awaits_deploy)
    with ExitStack() as undo:
        http = [undo.enter_context(each) for each in listening or [_listen(host, port)]]
        actual_port: int = http[0].getsockname()[1]
        control_tcp = [undo.enter_context(each) for each in _listen_admin(admin, admin_listening)]
        undo.enter_context(_told_where_files_cannot_be_made())
        instance, lock = _new_instance(name, actual_port)
        undo.callback(os.close, lock)
        undo_on_error = undo.enter_context(ExitStack())
        undo_on_error.callback(instance.remove)
        instance.key_file.touch(mode=0o600)
        instance.key_file.write_bytes(os.urandom(32))
        create_load_board(instance.board)
        if control_tcp:
            create_token(instance)
        control = undo.enter_context(_listen_unix(instance.control_socket))
        routing = undo.enter_context(_listen_unix(instance.routing_socket))
        life_read, life_write = os.pipe()
        undo.callback(os.close, life_read)
        undo_on_error.callback(os.close, life_write)
        logs = prepare_logs(instance, logging, on_terminal=not detached, as_service=as_service)
        output = undo.enter_context((logs / SUPERVISOR_FILE).open("ab")) if detached else None
        start = SupervisorStart(
            instance,
            Listening(http, control, routing, control_tcp),
            proxies,
            lifeline=life_read,
            lock=lock,
            starter=0 if detached else os.getpid(),
            settings=settings,
        )
        start_supervisor = fork_supervisor if from_command and _is_single_threaded() else spawn_supervisor
        process = start_supervisor(start, output)
        undo_on_error.callback(process.wait)
        undo_on_error.callback(process.kill)
        info = InstanceInfo(
            instance.name,
            process.pid,
            host,
            actual_port,
            proxies,
            time.time(),
            __version__,
            tls=options.tls is not None,
            root_url=root_url,
            admin=_bound(admin, control_tcp),
            http=options.without_password(),
        )
        _write_atomically(instance.info_file, msgspec.json.encode(info))
        undo_on_error.pop_all()
        return LaunchedInstance(instance, process, life_write, detached=detached)


def _check(host: str, options: ProxyOptions) -> None:
    """Refuse here, where somebody reads it, what proxies could only log."""
    if options.debug and not is_loopback(host):
        raise ConfigurationError(f"debug shows tracebacks to every client: only with a loopback host, not {host!r}")
    if options.tls is not None:
        from salver.data.http.tls import server_context  # only who needs TLS carries it

        server_context(options.tls)


def _is_single_threaded() -> bool:
    """Debuggers and profilers bring threads of their own."""
    return len(os.listdir("/proc/self/task")) == 1


@contextmanager
def _told_where_files_cannot_be_made() -> Generator[None]:
    try:
        yield
    except OSError as error:  # mostly a disk that is full
        raise StartupError(f"cannot make an instance in {instances_root()}: {error}") from error


def _new_instance(name: str | None, port: int) -> tuple[Instance, int]:
    if name is not None:
        try:
            return create_instance(name)
        except FileExistsError as error:
            raise StartupError(f"an instance named '{name}' is running already") from error
    try:
        return create_instance(str(port))
    except FileExistsError:  # the same port on another address
        return create_instance(f"{port}-{os.urandom(2).hex()}")


def _listen_admin(admin: AdminOptions | None, listening: Sequence[socket.socket]) -> Sequence[socket.socket]:
    return listening or ([] if admin is None else [_listen(admin.host, admin.port, "--admin-port")])


def _bound(admin: AdminOptions | None, listening: list[socket.socket]) -> AdminOptions | None:
    """Where it listens in fact."""
    if not listening:
        return None
    host, port, *_ = listening[0].getsockname()
    return AdminOptions(host, port, admin.allowed_hosts if admin is not None else ())


def _listen(host: str, port: int, flag: str = "--port") -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise StartupError(f"cannot listen on {host!r}: {error.strerror}") from error
    listening = socket.socket(family, kind)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StartupError(_why_not_bound(host, port, error, flag)) from error
    return listening


def _why_not_bound(host: str, port: int, error: OSError, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = _holder_of(port)
        return f"port {port} on {host} is in use{holder}: choose another with {flag}, or stop that process"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: choose one above 1023 with {flag}"
    return f"cannot listen on {host}:{port}: {error.strerror}"


def _holder_of(port: int) -> str:
    """`` by python (pid 123)`` when we may know it."""
    import psutil  # 3 MB and 20 ms that only this failure needs

    try:
        for connection in psutil.net_connections("tcp"):
            local: Any = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local.port == port and connection.pid:
                return f" by '{psutil.Process(connection.pid).name()}' (pid {connection.pid})"
    except (psutil.Error, AttributeError):
        pass
    return ""


def _listen_unix(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
    except OSError as error:  # mostly a path over 107 bytes
        listening.close()
        advice = "set XDG_RUNTIME_DIR to a folder with a shorter path"
        raise StartupError(f"cannot make the socket {path} ({error}): {advice}") from error
    path.chmod(0o600)
    listening.listen(BACKLOG)
    return listening


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    temporary.rename(path)
