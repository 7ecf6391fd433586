"""uvicorn with uvloop and httptools: bare, the yardstick without a proxy hop; and with FastAPI, as people run it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

from environments import Environment

from peers.peer import APPS, Peer, Server, free_port, running

NO_CALLS = "one process, nothing to call"
FASTEST = [
    "--loop",
    "uvloop",
    "--http",
    "httptools",
    "--no-access-log",
    "--log-level",
    "warning",
    "--lifespan",
    "off",
]


class Uvicorn(Peer):
    name = "uvicorn"
    title = "bare uvicorn"
    settings = "uvloop, httptools, no access log, no lifespan; an ASGI function, no framework"
    environment = Environment("", (), ("uvicorn", "uvloop", "httptools"))
    applications = frozenset({"noop", "echo", "stream_50", "stream_1000"})
    why_not: ClassVar = {
        "composed": NO_CALLS,
        "chain": NO_CALLS,
        "array": NO_CALLS,
        "fastapi": "measured with FastAPI",
        "sync": "knows no sync handlers",
        "batch": "knows no batches",
        "overload": "it bounds connections, not waiting requests",
        "cold": NO_CALLS,
    }
    module = "bare_asgi"

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        port = free_port()
        options = ["--app-dir", str(APPS), "--port", str(port), "--workers", str(replicas)]
        command = [str(self.environment.python), "-m", "uvicorn", f"{self.module}:{application}"]
        with running([*command, *options, *FASTEST], port, self.request(application)) as server:
            yield server


class FastAPI(Uvicorn):
    name = "fastapi"
    title = "FastAPI on uvicorn"
    settings = "uvloop, httptools, no access log; no proxy hop, no child"
    environment = Environment("", (), ("fastapi", "uvicorn", "uvloop", "httptools"))
    applications = frozenset({"noop", "sync", "fastapi", "echo", "stream_50", "stream_1000"})
    why_not: ClassVar = {name: reason for name, reason in Uvicorn.why_not.items() if name not in {"fastapi", "sync"}}
    module = "fastapi_apps"
