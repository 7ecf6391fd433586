"""A driver script (`apps/driver.py`) as a process that deploys what it is told to, for Salver and for Ray Serve."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import processes
from environments import Environment
from http_request import Request

from peers.peer import APPS, STOP_WITHIN_S, Server, free_port, last_words, private_folder, spawn, wait_for_200

ANSWER_WITHIN_S = 180


class Driver:
    """Starts with the first deploy."""

    def __init__(self, environment: Environment, variables: Mapping[str, str]) -> None:
        self._environment = environment
        self._variables = dict(variables)
        self._resources = ExitStack()
        self._process: subprocess.Popen[str] | None = None
        self._log = Path()
        self.port = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def deploy(self, application: str, replicas: int = 1) -> float:
        """How many seconds `serve.run` took, as the script saw it."""
        arguments = {"application": application, "replicas": str(replicas)}
        return self._tell({"do": "deploy", "arguments": arguments})

    def delete(self) -> None:
        """Ends the application and its replicas."""
        self._tell({"do": "delete"})

    def serve(self, application: str, replicas: int, probe: Request) -> Server:
        """Deploys it and waits for its first 200, which pays for the start of everything the first time."""
        start = time.perf_counter()
        self.deploy(application, replicas)
        assert self._process is not None
        wait_for_200(self.port, probe, self._log, self._process)
        return Server(self._process.pid, self.port, time.perf_counter() - start)

    def _tell(self, command: dict[str, Any]) -> float:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            answered, _, _ = select.select([process.stdout], [], [], ANSWER_WITHIN_S)
            line = process.stdout.readline() if answered else ""
        except BrokenPipeError:
            answered, line = [process.stdout], ""
        if not line:
            state = "ended" if answered else f"was silent for {ANSWER_WITHIN_S} s"
            raise RuntimeError(f"the driver {state}: {last_words(self._log)}")
        return json.loads(line)["seconds"]

    def _start(self) -> subprocess.Popen[str]:
        folder = self._resources.enter_context(private_folder())
        self._log = folder / "log"
        self.port = free_port()
        command = [str(self._environment.python), str(APPS / "driver.py"), str(self.port)]
        variables = {name: value.replace("{folder}", str(folder)) for name, value in self._variables.items()}
        self._process, _ = spawn(command, folder, variables, piped=True)
        return self._process

    def close(self) -> None:
        """Ends the driver and everything that it has started."""
        if self._process is not None:
            below = processes.tree(self._process.pid) if self._process.poll() is None else []
            try:
                self._process.communicate(timeout=STOP_WITHIN_S)  # the end of its input is its end
            except subprocess.TimeoutExpired:
                pass
            processes.stop(self._process.pid, within=STOP_WITHIN_S)
            processes.kill(below)
            self._process = None
        self._resources.close()
