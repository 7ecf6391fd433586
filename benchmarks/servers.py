"""Starts the servers that are measured, as a user would, and stops them.

Each Salver gets a runtime folder of its own, so that a benchmark neither sees nor disturbs an instance that runs
already. What a server prints goes to a file, as it would in production, and is shown when it fails.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).with_name("apps")
START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
POLL_INTERVAL = 0.001

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server that has answered its first request."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    first_200_after: float
    """Seconds from the start of its process to the first `200 OK`, seen from outside."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextmanager
def salver(import_path: str, *arguments: str) -> Generator[Server]:
    """`salver run IMPORT_PATH [KEY=VALUE]...`, from this interpreter's environment."""
    command = str(Path(sys.executable).with_name("salver"))
    # A short path, whatever TMPDIR says: the address of a Unix socket must stay below 108 bytes.
    runtime = tempfile.mkdtemp(prefix="salver-bench-", dir="/tmp")
    try:
        port = _free_port()
        options = ["--app-dir", str(APPS), "--port", str(port)]
        with _serving([command, "run", import_path, *arguments, *options], port, Path(runtime)) as server:
            yield server
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


@contextmanager
def uvicorn() -> Generator[Server]:
    """Bare uvicorn at its fastest: uvloop, httptools, one worker, no access log, no lifespan."""
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as runtime:
        port = _free_port()
        options = ["--app-dir", str(APPS), "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
        quiet = ["--no-access-log", "--log-level", "warning", "--lifespan", "off"]
        command = [sys.executable, "-m", "uvicorn", "bare_asgi:app", *options, *quiet]
        with _serving(command, port, Path(runtime)) as server:
            yield server


@contextmanager
def _serving(command: list[str], port: int, runtime: Path) -> Generator[Server]:
    log = runtime / "log"
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "XDG_STATE_HOME": str(runtime)}
    with log.open("wb") as output:
        started_at = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        first_200_at = _wait_for_200(process, port, log)
        yield Server(process, port, log, first_200_at - started_at)
    finally:
        _stop(process)


def _wait_for_200(process: subprocess.Popen[bytes], port: int, log: Path) -> float:
    """When the first 200 came. Asks a thousand times a second, which costs the server little and is exact enough."""
    deadline = time.perf_counter() + START_TIMEOUT
    while not _answers_200(port, deadline):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{log.read_text()}")
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{process.args} did not answer within {START_TIMEOUT:g} s:\n{log.read_text()}")
        time.sleep(POLL_INTERVAL)
    return time.perf_counter()


def _answers_200(port: int, deadline: float) -> bool:
    """Waits for the answer once connected: the listening socket may be there before anybody accepts from it."""
    try:
        patience = max(POLL_INTERVAL, deadline - time.perf_counter())
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
            connection.sendall(REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, and no mercy later."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
