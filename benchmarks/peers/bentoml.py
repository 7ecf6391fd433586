"""BentoML, whose services are ASGI applications that call each other over HTTP."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from environments import Environment
from http_request import Request

from peers.peer import APPS, Peer, Server, free_port, running

ONE_INPUT = Request(method="POST", body=b'{"inputs": ["hello"]}', content_type="application/json")


class BentoML(Peer):
    name = "bentoml"
    title = "BentoML"
    settings = "`bentoml serve`; uvloop, httptools; no access log, metrics or traces; POST with `{}`"
    environment = Environment(
        "bentoml", ("bentoml", "numpy", "uvloop", "httptools"), ("bentoml", "uvicorn", "uvloop", "httptools", "numpy")
    )
    applications = frozenset(
        {"noop", "sync", "composed", "chain", "echo", "stream_50", "stream_1000", "batch", "overload", "array"}
    )
    why_not: ClassVar = {
        "fastapi": "FastAPI is mounted beside its services, not served by them",
        "cold": "scales to zero on its makers' cloud only",
    }

    def adapt(self, request: Request) -> Request:
        return request.as_post(b"{}")

    def request(self, application: str) -> Request:
        return ONE_INPUT if application == "batch" else super().request(application)

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(APPS), "--quiet"]
        command = [self.environment.command("bentoml"), "serve", "bentoml_app:service", *options]
        variables = {"APPLICATION": application, "REPLICAS": str(replicas), "BENTOML_DO_NOT_TRACK": "True"}
        with running(command, port, self.request(application), variables) as server:
            yield server
