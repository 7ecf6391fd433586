"""Mosec, whose proxy and queues are in Rust; its stages are processes in a row."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

from environments import Environment
from http_request import Request

from peers.peer import APPS, Peer, Server, free_port, running

CAPACITY = {"overload": 25}
UNBOUNDED = 4096
LARGEST_BODY = 64 * 2**20


class Mosec(Peer):
    name = "mosec"
    title = "Mosec"
    settings = "one worker process per stage and replica; log level warning; POST with `{}`"
    environment = Environment("mosec", ("mosec",), ("mosec",))
    applications = frozenset(
        {"noop", "sync", "composed", "chain", "echo", "stream_50", "stream_1000", "batch", "overload"}
    )
    why_not: ClassVar = {
        "array": "a stage hands on its result and calls no other",
        "fastapi": "its HTTP server takes no application",
        "cold": "has a fixed number of workers",
    }

    def adapt(self, request: Request) -> Request:
        """Its proxy answers requests without a body by itself."""
        return replace(request.as_post(b"{}"), path="/inference")

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        options = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--timeout", "30000"]
        limits = ["--capacity", str(CAPACITY.get(application, UNBOUNDED)), "--max-request-size", str(LARGEST_BODY)]
        command = [str(self.environment.python), str(APPS / "mosec_app.py"), *options, *limits]
        variables = {"APPLICATION": "noop" if application == "sync" else application, "REPLICAS": str(replicas)}
        with running(command, port, self.request(application), variables) as server:
            yield server
