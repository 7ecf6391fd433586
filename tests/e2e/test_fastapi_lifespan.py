"""The lifespan of applications in replicas: once in each, failing loudly, ending in time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import requests

from harness.instance import SalverRun

APP = """
import asyncio, os
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request
from salver import serve

LOG = os.environ["LOG"]

def note(what):
    with open(LOG, "a") as log:
        log.write(f"{what} {os.getpid()}\\n")

@asynccontextmanager
async def lifespan(app):
    note("up")
    app.state.pid = os.getpid()
    yield {"pid": os.getpid()}
    await asyncio.sleep(0)
    note("down")

app = FastAPI(lifespan=lifespan)

@serve.deployment(num_replicas=2, graceful_shutdown_timeout_s=20)
@serve.ingress(app)
class Web:
    def __init__(self):
        note("constructed")

    @app.get("/")
    async def pids(self, request: Request):
        return [os.getpid(), request.state.pid, request.app.state.pid, app.state.pid]

web = Web.bind()
"""

FAILS = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from salver import serve

@asynccontextmanager
async def lifespan(app):
    raise LookupError("no weights here")
    yield

app = FastAPI(lifespan=lifespan)

@serve.deployment
@serve.ingress(app)
class Web:
    pass

web = Web.bind()
"""

HANGS = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import FastAPI
from salver import serve

@asynccontextmanager
async def lifespan(app):
    yield
    await asyncio.sleep(600)

app = FastAPI(lifespan=lifespan)

@serve.deployment(graceful_shutdown_timeout_s=1)
@serve.ingress(app)
class Web:
    @app.get("/")
    async def get(self):
        return 1

web = Web.bind()
"""


def test_each_replica_has_one_around_its_requests(salver_run: Callable[..., SalverRun], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = salver_run("app:web", "--port", "0", files={"app.py": APP}, env={"LOG": str(log)})
    replicas = sorted(run.pids()["replica"])
    assert len(replicas) == 2
    for _ in range(4):
        pids = requests.get(run.url, timeout=30).json()
        assert len(set(pids)) == 1
        assert pids[0] in replicas
    run.interrupt()
    run.wait(60)
    lines = [line.split() for line in log.read_text().splitlines()]
    for pid in replicas:
        assert [what for what, who in lines if who == str(pid)] == ["constructed", "up", "down"]


def test_a_startup_that_fails_is_a_constructor_that_fails(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:web", "--port", "0", files={"app.py": FAILS}, wait_ready=False)
    assert run.wait(90) != 0
    output = run.output()
    assert "constructor of Web failed: LookupError: no weights here" in output
    assert 'raise LookupError("no weights here")' in output  # the traceback
    assert "Ready in" not in output


def test_a_shutdown_that_hangs_ends_in_time(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:web", "--port", "0", files={"app.py": HANGS})
    assert requests.get(run.url, timeout=30).json() == 1
    everything = run.processes()
    run.interrupt()
    run.wait(60)
    run.assert_gone(everything, within=30)


def test_replicas_in_one_process_have_one_each(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_python(LOCAL, files={"web.py": LOCAL_APP})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["up", "up", "True", "True", "down", "down"]


LOCAL_APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request
from salver import serve

made = iter(range(100))

@asynccontextmanager
async def lifespan(app):
    print("up")
    app.state.number = next(made)
    yield {"number": app.state.number}
    print("down")

app = FastAPI(lifespan=lifespan)

@serve.deployment(num_replicas=2, max_ongoing_requests=1)
@serve.ingress(app)
class Web:
    @app.get("/")
    async def get(self, request: Request) -> bool:
        return request.state.number == request.app.state.number

    async def name(self):
        return self.__class__.__name__
"""

LOCAL = """
from salver import serve
from web import Web, app

routes = list(app.routes)
handle = serve.run(Web.bind(), _local_testing_mode=True)
assert handle.name.remote().result() == "Web"
print(app.routes == routes, app.middleware_stack is None)
serve.shutdown()
"""
