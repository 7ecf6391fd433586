"""The physical limit: a proxy and replicas in plain Python that do nothing but pass on and answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from environments import Environment

from peers.peer import APPS, Peer, Server, free_port, running


class BarePair(Peer):
    name = "pair"
    title = "bare proxy → replica"
    settings = "uvloop, httptools, a Unix socket; none of the things that a server must do"
    environment = Environment("", (), ("uvloop", "httptools"))
    applications = frozenset({"noop", "composed", "chain", "echo", "stream_50", "stream_1000"})
    why_not = dict.fromkeys(("sync", "fastapi", "batch", "overload", "array", "cold"), "only passes on bytes")

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        command = [str(self.environment.python), str(APPS / "bare_pair.py"), str(port), application]
        with running(command, port, self.request(application)) as server:
            yield server
