"""What a server is to the harness: where it is installed, which applications it can express, how it is started.

Every server gets a private folder for what it writes, so that it neither sees nor disturbs another instance on the
machine; what it prints goes to a file, as in production, and is shown when it fails.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import processes
from environments import Environment
from http_request import Request, ask_once, text_of

APPS = Path(__file__).parents[1] / "apps"
START_WITHIN_S, STOP_WITHIN_S = 60.0, 15.0
POLL_S = 0.001
PROBES = {"echo": Request(method="POST", body=text_of(10), content_type="application/json")}
OK = 200


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that has answered its first request."""

    pid: int
    """Of its first process; all others are below it."""
    port: int
    first_200_s: float
    """Until the first 200, from before its process was created or, if that runs on, before it was told to deploy."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Peer(ABC):
    """One server in one configuration.

    Attributes:
        name: for the command line and the JSON.
        title: for people.
        settings: how it is configured, in a sentence.
        environment: where it is installed.
        applications: those that it can express.
        why_not: for applications that it cannot express, the reason.
        lasting: it stays up between workloads (its start is slow, or idle it disturbs others), so that a round
            measures all workloads on it in one go.
    """

    name: str
    title: str
    settings: str
    environment: Environment
    applications: frozenset[str]
    why_not: ClassVar[Mapping[str, str]] = {}
    lasting: bool = False

    def adapt(self, request: Request) -> Request:
        """The same in the form that this server takes."""
        return request

    def request(self, application: str) -> Request:
        """The least that the application answers."""
        return self.adapt(PROBES.get(application, Request()))

    @abstractmethod
    def serve(self, application: str, replicas: int = 1) -> AbstractContextManager[Server]:
        """Runs it. Raises RuntimeError, with the end of its output, when it does not answer."""

    def close(self) -> None:  # noqa: B027 - most peers keep nothing
        """Ends what a lasting peer has kept."""


@contextmanager
def private_folder() -> Generator[Path]:
    """A short path, whatever TMPDIR says: the address of a Unix socket must stay below 108 bytes."""
    folder = tempfile.mkdtemp(prefix="sb-", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str], port: int, probe: Request, variables: Mapping[str, str] | None = None
) -> Generator[Server]:
    """The command's process, from its first 200 on."""
    with private_folder() as folder:
        process, start = spawn(command, folder, variables or {})
        try:
            wait_for_200(port, probe, folder / "log", process)
            yield Server(process.pid, port, time.perf_counter() - start)
        finally:
            processes.stop(process.pid, within=STOP_WITHIN_S)
            process.wait()


def spawn(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], *, piped: bool = False
) -> tuple[subprocess.Popen[str], float]:
    """The process, whose errors (and output, unless `piped`) go to `log` in the folder, and when it was created."""
    private = {"XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder), "PYTHONPATH": "", "TMPDIR": str(folder)}
    private["PYTHONDONTWRITEBYTECODE"] = ""  # installed peers are compiled: a checkout is with its first start
    with (folder / "log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else log,
            stderr=log,
            text=True,
            env=os.environ | private | variables,
            cwd=folder,
            process_group=0,  # Ctrl-C at the terminal is for the harness, which ends the servers in order
        )
    return process, start


def wait_for_200(port: int, probe: Request, log: Path, process: subprocess.Popen[str]) -> None:
    """Asks a thousand times a second, which costs the server little and is exact enough."""
    deadline = time.monotonic() + START_WITHIN_S
    while not _answers_200(port, probe, deadline):
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}: {last_words(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no 200 within {START_WITHIN_S:g} s: {last_words(log)}")
        time.sleep(POLL_S)


def _answers_200(port: int, probe: Request, deadline: float) -> bool:
    """Waits for the answer once connected: the listening socket may be there before anybody accepts from it."""
    try:
        return ask_once(port, probe, max(POLL_S, deadline - time.monotonic())).status == OK
    except (OSError, ValueError):
        return False


def last_words(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").strip().splitlines()[-5:])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
