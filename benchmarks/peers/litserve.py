"""LitServe, with the queue that its documentation recommends for many requests."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from environments import Environment
from http_request import Request

from peers.peer import APPS, Peer, Server, free_port, running

NO_CALLS = "one API calls no other"


class LitServe(Peer):
    name = "litserve"
    title = "LitServe"
    settings = "fast_queue (ZeroMQ), uvloop, httptools, no access log; POST with `{}`, the least that it takes"
    environment = Environment("litserve", ("litserve",), ("litserve", "uvicorn", "uvloop", "pyzmq"))
    applications = frozenset({"noop", "sync", "echo", "stream_50", "stream_1000", "batch"})
    why_not: ClassVar = {
        "composed": NO_CALLS,
        "chain": NO_CALLS,
        "array": NO_CALLS,
        "fastapi": "an API is a class of LitServe's, no FastAPI application",
        "overload": "its queue has no bound",
        "cold": "has a fixed number of workers",
    }

    def adapt(self, request: Request) -> Request:
        return request.as_post(b"{}")

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        command = [str(self.environment.python), str(APPS / "litserve_app.py"), str(port)]
        variables = {"APPLICATION": "noop" if application == "sync" else application, "REPLICAS": str(replicas)}
        with running(command, port, self.request(application), variables) as server:
            yield server
