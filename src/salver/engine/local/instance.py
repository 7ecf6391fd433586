"""An instance's folder: its sockets, state and identity, for this user only.

``$XDG_RUNTIME_DIR/salver/<name>/``, else ``<temporary folder>/salver-<uid>/<name>/``. The supervisor holds a lock in
it for as long as it lives; a folder whose lock is free belongs to nobody and is removed by whoever finds it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions
from salver.engine.local.admin import AdminOptions
from salver.errors import StartupError

LOGS = "logs"
"""In the folder of instances the one name that none of them can have: their log files are there."""


class InstanceInfo(Struct, frozen=True):
    """What an instance tells about itself in ``instance.json``.

    Attributes:
        name: how people and commands call it.
        pid: its supervisor.
        host, port: of its HTTP ingress.
        started_at: wall clock, seconds since 1970.
        tls: whether clients must use HTTPS.
        root_url: under which clients reach it from elsewhere, as its user said; empty when nothing was said.
        admin: where its control API listens on TCP; None for nowhere.
        http: how its HTTP ingress behaves, without the password of a key file.
    """

    name: str
    pid: int
    host: str
    port: int
    proxies: int
    started_at: float
    version: str
    tls: bool = False
    root_url: str = ""
    admin: AdminOptions | None = None
    http: ProxyOptions = DEFAULT_PROXY_OPTIONS

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/"


class Instance:
    """Paths of one instance, running or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.control_socket = folder / "control.sock"
        self.routing_socket = folder / "routing.sock"
        self.replica_sockets = folder / "r"
        self.board = folder / "load.board"
        self.key_file = folder / "session.key"
        self.lock_file = folder / "lock"
        self.state = folder / "state"
        self.info_file = folder / "instance.json"
        self.logging_file = folder / "logging.json"

    @property
    def routing_address(self) -> str:
        return f"unix:{self.routing_socket}"

    @property
    def logs(self) -> Path | None:
        """The folder of its log files, which outlives it; None when it has ended, or only begins."""
        try:
            return Path(os.readlink(self.folder / "logs"))
        except OSError:
            return None

    def info(self) -> InstanceInfo:
        return msgspec.json.decode(self.info_file.read_bytes(), type=InstanceInfo)

    def key(self) -> bytes:
        """The session key; refused when others could have read it."""
        mode = self.key_file.lstat()
        if mode.st_uid not in {0, os.getuid()} or mode.st_mode & 0o077 or not stat.S_ISREG(mode.st_mode):
            raise StartupError(f"{self.key_file} is readable by others: stop the instance and remove its folder")
        return self.key_file.read_bytes()

    def is_running(self) -> bool:
        """Whether its supervisor lives."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        import shutil  # with its compression libraries, which every process would carry

        shutil.rmtree(self.folder, ignore_errors=True)


def instances_root() -> Path:
    """The folder of this user's instances, made when missing, refused when somebody else controls it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        root = Path(runtime) / "salver"
    else:
        root = Path(os.environ.get("TMPDIR") or "/tmp") / f"salver-{os.getuid()}"  # noqa: S108 - checked below
    root.mkdir(mode=0o700, exist_ok=True)
    mode = root.lstat()
    if not stat.S_ISDIR(mode.st_mode) or mode.st_uid != os.getuid() or mode.st_mode & 0o077:
        raise StartupError(f"{root} is not a folder of yours alone (mode 0700): remove it or set XDG_RUNTIME_DIR")
    return root


def create_instance(name: str) -> tuple[Instance, int]:
    """A new folder and the descriptor of its lock, held. Raises FileExistsError when a running one has the name."""
    root = instances_root()
    if name == LOGS:
        raise StartupError(f"an instance cannot be named '{LOGS}': that is where their logs are")
    instance = Instance(root / name)
    with _alone_in(root):
        if instance.folder.exists() and not instance.is_running():
            instance.remove()
        instance.folder.mkdir(mode=0o700)
        lock = os.open(instance.lock_file, os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    instance.replica_sockets.mkdir(mode=0o700)
    return instance, lock


@contextmanager
def _alone_in(root: Path) -> Generator[None]:
    """For milliseconds: a folder that is just being made looks like that of a dead instance."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def running_instances() -> list[Instance]:
    """Every running instance of this user, by name; leftovers of dead ones are removed."""
    found: list[Instance] = []
    root = instances_root()
    with _alone_in(root):
        for folder in sorted(root.iterdir()):
            instance = Instance(folder)
            if instance.is_running():
                if instance.info_file.exists():
                    found.append(instance)
            elif instance.lock_file.exists():
                instance.remove()
    return found


def find_instance(name: str | None = None) -> Instance:
    """The named instance, or the only one.

    Raises:
        LookupError: there is none, or several and no name was given; the message lists them.
    """
    running = running_instances()
    if name is not None:
        for instance in running:
            if instance.name == name:
                return instance
        raise LookupError(f"No instance named '{name}' is running.{_listing(running)}")
    if not running:
        raise LookupError("No instance is running. Start one with `salver run module:app`.")
    if len(running) > 1:
        raise LookupError(f"Several instances are running: choose one with --instance NAME.{_listing(running)}")
    return running[0]


def ask_to_end(supervisor_pid: int) -> None:
    """Ask a supervisor to end its instance, without waiting for that."""
    stop_instance(supervisor_pid, 0.0)


def stop_instance(supervisor_pid: int, timeout_s: float = 60.0) -> bool:
    """Ask a supervisor to end its instance; whether it has ended within ``timeout_s`` seconds."""
    try:
        process = os.pidfd_open(supervisor_pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        return bool(select.select([process], [], [], timeout_s)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(process)


def _listing(instances: list[Instance]) -> str:
    lines = [f"\n  {instance.name:<12} {instance.info().url}" for instance in instances]
    return "".join(lines) if lines else " None is."
