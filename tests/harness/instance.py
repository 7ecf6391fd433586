"""A ``salver run`` in a subprocess, watched from outside as a user would watch it.

Each run has a runtime folder of its own below the test session's, so that commands in it see no other instance.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from harness.processes import descendants, is_alive, living, role
from harness.waiting import Patience, eventually, patience
from salver.controller.client import ControlClient
from salver.serve.schema import serve_status

READY = re.compile(r"Ready in [\d.]+ s · (?P<url>https?://\S+)")

_GONE_WITHIN_S = 10.0
_LOOK_S = 0.1
_numbers = itertools.count()


def new_runtime_folder() -> Path:
    """A folder to be some command's XDG_RUNTIME_DIR, inside this test process's own; its path is short."""
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / str(next(_numbers))
    folder.mkdir(mode=0o700)
    return folder


def command_line(argv: tuple[str, ...]) -> list[str]:
    """``salver``, ``serve`` and ``python`` mean those of the environment that runs the tests."""
    if argv[0] == "python":
        return [sys.executable, *argv[1:]]
    if argv[0] in {"salver", "serve"}:
        return [str(Path(sys.executable).with_name(argv[0])), *argv[1:]]
    return list(argv)


class SalverRun:
    """A command that runs an instance, started by ``start``.

    Attributes:
        url: where its application answers, as its Ready line said; ends with the route prefix.
        port: of that url.
        name: of the instance.
        cwd: the folder that it runs in.
        runtime: its XDG_RUNTIME_DIR.
        supervisor_pid: of the instance that it started or joined.
    """

    url: str
    port: int
    name: str
    supervisor_pid: int

    def __init__(self, argv: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> None:
        self.runtime = Path(environment["XDG_RUNTIME_DIR"])
        self._environment = environment
        self.cwd = cwd
        self._detached = "--non-blocking" in argv or ("start" in argv and "--foreground" not in argv)
        self._output = bytearray()
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command_line(argv),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {argv[0]}", daemon=True)
        self._reader.start()

    @classmethod
    def launch(cls, *argv: str, cwd: Path, env: dict[str, str] | None = None) -> SalverRun:
        """Like ``start``, without waiting for anything: ``url`` and so on are set when ``wait_ready`` returns."""
        environment = {**os.environ, "XDG_RUNTIME_DIR": "", **(env or {})}
        if not environment["XDG_RUNTIME_DIR"]:
            environment["XDG_RUNTIME_DIR"] = str(new_runtime_folder())
        environment["XDG_STATE_HOME"] = environment["XDG_RUNTIME_DIR"]
        return cls(argv, cwd, environment)

    @classmethod
    def start(cls, *argv: str, cwd: Path, env: dict[str, str] | None = None, ready_within: float = 30.0) -> SalverRun:
        """Start a whole command (``"salver", "run", "app:app"``) and wait for its Ready line.

        Args:
            env: more environment variables; with XDG_RUNTIME_DIR among them, the run is in that folder.

        Raises:
            AssertionError: it exited or was not ready in time; the message holds all that it wrote.
        """
        run = cls.launch(*argv, cwd=cwd, env=env)
        try:
            run.wait_ready(ready_within)
        except BaseException:
            run.stop()
            raise
        return run

    def wait_ready(self, within: float | Patience = 30.0) -> None:
        """Wait for the Ready line. Raises AssertionError, with the output, when there is none in time."""
        self.url = self.wait_for_output(READY, within)["url"]
        self._identify()

    def _identify(self) -> None:
        port = re.search(r":(\d+)/", self.url)
        assert port, self.url
        self.port = int(port[1])
        for path in self.runtime.glob("salver/*/instance.json"):
            info = json.loads(path.read_bytes())
            if info["port"] == self.port:
                self.name, self.supervisor_pid = info["name"], info["pid"]
                return
        raise AssertionError(f"no instance in {self.runtime} has port {self.port}\n{self.output()}")

    # --- what it says -----------------------------------------------------------------------------------

    def output(self) -> str:
        """Everything that the command and its processes wrote so far, stdout and stderr together."""
        with self._changed:
            return self._output.decode(errors="replace")

    def wait_for_output(self, pattern: str | re.Pattern[str], within: float | Patience = 10.0) -> re.Match[str]:
        """Wait until the output matches. Raises AssertionError, with the output, when it will not or is late."""
        expression = re.compile(pattern)
        deadline = patience(within)
        with self._changed:
            while (found := expression.search(self.output())) is None and self._reader_runs() and deadline.left():
                self._changed.wait(_LOOK_S)
        if found is None:
            self._process.poll()
            raise AssertionError(
                f"{expression.pattern!r} not in the output within {deadline.seconds:g} s "
                f"(exit code {self._process.returncode}):\n{self.output()}"
            )
        return found

    def _reader_runs(self) -> bool:
        assert self._process.stdout is not None
        return not self._process.stdout.closed

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        while data := os.read(pipe.fileno(), 65536):
            with self._changed:
                self._output += data
                self._changed.notify_all()
        with self._changed:
            pipe.close()
            self._changed.notify_all()

    # --- what it is -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What ``salver status --json`` of this instance says, without a command for it."""
        return serve_status(ControlClient(self.folder / "control.sock").status()).model_dump(mode="json")

    def pids(self) -> dict[str, list[int]]:
        """The living processes by role: supervisor, controller, proxy, replica, cli. Asks the kernel, not Salver."""
        found: dict[str, list[int]] = {name: [] for name in ("supervisor", "controller", "proxy", "replica", "cli")}
        if self.is_alive():
            found["cli"].append(self._process.pid)
        for pid in [self.supervisor_pid, *descendants(self.supervisor_pid)]:
            kind = role(pid)
            if kind is not None:
                found[kind].append(pid)
        return found

    def processes(self) -> list[int]:
        """The command and every process of its instance, what user code started included."""
        return [self._process.pid, self.supervisor_pid, *descendants(self.supervisor_pid)]

    @property
    def cli_pid(self) -> int:
        return self._process.pid

    @property
    def folder(self) -> Path:
        """The instance's."""
        return self.runtime / "salver" / self.name

    def is_alive(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    # --- what to do to it -------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def wait(self, within: float | Patience) -> int:
        """The command's exit code. Raises AssertionError, with the output, when it runs longer."""
        deadline = patience(within)
        while self._process.poll() is None:
            if not deadline.left():
                raise AssertionError(f"still runs after {deadline.seconds:g} s\n{self.output()}")
            try:
                self._process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                continue
        return self._process.returncode

    def cli(self, *argv: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Another salver command beside this one."""
        return subprocess.run(
            command_line(("salver", *argv)),
            cwd=self.cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def assert_gone(self, processes: list[int], within: float | Patience) -> None:
        """Check that its ``processes`` end, that its folder goes, and that its port can be bound.

        Args:
            processes: what ``processes()`` answered when it was well.
            within: in seconds, from now.
        """
        eventually(
            f"every process ends and {self.folder} goes",
            lambda: not living(processes) and not self.folder.exists(),
            within,
        )
        with socket.create_server(("127.0.0.1", self.port)):
            pass

    def stop(self) -> None:
        """End it, however it is, and take its output's end. May be called twice.

        A command that has ended by itself should have left nothing; what it did leave is for the leak check to find.
        """
        if self.is_alive():
            self.kill()
        if self._detached:  # the only kind that is allowed to outlive its command
            for path in self.runtime.glob("salver/*/instance.json"):
                self._stop_detached(json.loads(path.read_bytes())["pid"], path.parent)
        self._process.wait(_GONE_WITHIN_S)
        self._reader.join(_GONE_WITHIN_S)

    def _stop_detached(self, supervisor_pid: int, folder: Path) -> None:
        everything = [supervisor_pid, *descendants(supervisor_pid)]
        if is_alive(supervisor_pid):
            os.kill(supervisor_pid, signal.SIGKILL)
        eventually("the detached instance ends", lambda: not living(everything), _GONE_WITHIN_S)
        shutil.rmtree(folder, ignore_errors=True)
