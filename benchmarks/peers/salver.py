"""Salver as a user runs it: the real command, default options, access log on, output to a file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from environments import Environment

from peers.driver import Driver
from peers.peer import APPS, Peer, Server, free_port, running

HERE = Environment("", (), ("salver", "uvicorn", "uvloop", "httptools", "msgspec", "starlette"))
APPLICATIONS = frozenset(
    {"noop", "sync", "composed", "chain", "fastapi", "echo", "stream_50", "stream_1000", "batch", "overload"}
    | {"array", "cold"}
)


class Salver(Peer):
    name = "salver"
    title = "Salver"
    settings = "`salver run` with default options: access log, request ids, limits; one proxy"
    environment = HERE
    applications = APPLICATIONS

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        build = ["serving:build", f"application={application}", f"replicas={replicas}"]
        command = [HERE.command("salver"), "run", *build, "--app-dir", str(APPS), "--port", str(port)]
        with running(command, port, self.request(application)) as server:
            yield server

    def driver(self) -> Driver:
        """A script of its own."""
        return Driver(HERE, {})
