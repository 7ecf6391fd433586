"""Applications that are not FastAPI's, and classes that a script has of its own, under a real instance."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import requests

from harness.instance import SalverRun
from harness.waiting import eventually

APPS = '''
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from salver import serve

async def raw(scope, receive, send):
    """Knows HTTP and nothing else."""
    assert scope["type"] == "http"
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["path"].endswith("/half"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        return
    if scope["path"].endswith("/silent"):
        return
    text = f"{scope['method']} {scope['root_path']} {scope['path']} {scope['query_string'].decode()} {len(body)}"
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-raw", b"yes")]})
    for part in text.split():
        await send({"type": "http.response.body", "body": part.encode() + b"|", "more_body": True})
    await send({"type": "http.response.body"})

@serve.deployment
@serve.ingress(raw)
class Raw:
    pass

@serve.deployment
@serve.ingress(None)
class Own:
    def __init__(self, value):
        self.value = value

    def __serve_build_asgi_app__(self):
        async def get(request):
            return JSONResponse(self.value)
        return Starlette(routes=[Route("/", get)])

raw_app = Raw.bind()
own_app = Own.bind(7)
'''

SCRIPT = """
import glob, json, os
import requests
from typing import Annotated
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel
from salver import serve

app = FastAPI()
router = APIRouter(prefix="/r")

class Item(BaseModel):
    n: int

def three():
    return 3

@serve.deployment
@serve.ingress(app)
class Web:
    async def __init__(self, k):
        self.k = k

    @app.post("/item")
    def item(self, item: Item, plus: Annotated[int, Depends(three)]) -> Item:
        return Item(n=item.n + self.k + plus)

    @router.get("/{n}")
    async def get(self, n: int):
        return [n, self.k, self.item(Item(n=1), 0).n]

app.include_router(router)

class Sub(Web.func_or_class):
    async def get(self, n: int):
        return "sub"

if __name__ == "__main__":
    serve.start(http_options={"port": 0})
    handle = serve.run(Web.bind(4), route_prefix="/web")
    serve.run(serve.deployment(Sub).bind(5), name="sub", route_prefix="/sub")
    (info,) = glob.glob(os.environ["XDG_RUNTIME_DIR"] + "/salver/*/instance.json")
    base = f"http://127.0.0.1:{json.load(open(info))['port']}"
    print(requests.post(base + "/web/item", json={"n": 1}).json())
    print(requests.get(base + "/web/r/2").json(), requests.get(base + "/sub/r/2").json())
    print(handle.get.remote(9).result())
"""


def test_a_plain_asgi_function(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("apps:raw_app", "--port", "0", "--route-prefix", "/raw", files={"apps.py": APPS})
    with requests.Session() as client:
        answer = client.put(f"{run.url}/a%20b?q=1", data=b"x" * 200_000)
        assert (answer.status_code, answer.headers["x-raw"]) == (201, "yes")
        assert answer.text.split("|")[:2] == ["PUT", "/raw"]
        assert answer.text.endswith("q=1|200000|")
        for path in ("half", "silent"):
            assert client.get(f"{run.url}/{path}").status_code == 500
    logged = "InvalidASGI: the application returned before it had answered"
    eventually("both are in the log", lambda: run.output().count(logged) == 2)


def test_a_class_that_builds_its_own(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("apps:own_app", "--port", "0", files={"apps.py": APPS})
    assert requests.get(run.url, timeout=30).json() == 7


def test_classes_of_a_script(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """They are in no module that a replica could import: application, routers and models travel by value."""
    done = run_python(SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["{'n': 8}", "[2, 4, 5] sub", "[9, 4, 5]"]
