"""A FastAPI application under ``salver run``: routes with ``self``, streams, background tasks, errors, the log."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import eventually

APP = """
import asyncio, os
from pathlib import Path
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from salver import serve
from salver.serve.exceptions import BackPressureError, DeploymentUnavailableError

app = FastAPI(title="Shop")
admin = FastAPI()
router = APIRouter(prefix="/items")

class Stamp(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-stamp"] = f"{response.status_code}"
        return response

app.add_middleware(Stamp)

class Item(BaseModel):
    name: str
    price: float = 1.0

@admin.get("/who")
def who(request: Request):
    return [request.scope["root_path"], str(request.url)]

@serve.deployment
class Prices:
    def of(self, name: str) -> float:
        return float(len(name))

@serve.deployment(max_ongoing_requests=20)
@serve.ingress(app)
class Shop:
    def __init__(self, prices):
        self.prices = prices
        self.sold = []

    @router.post("/")
    async def sell(self, item: Item) -> Item:
        price = await self.prices.of.remote(item.name)
        self.sold.append(item.name)
        return Item(name=item.name, price=price)

    @router.get("/{number}")
    def get(self, number: int) -> str:
        if number >= len(self.sold):
            raise HTTPException(404, "not sold")
        return self.sold[number]

    @app.post("/upload")
    async def upload(self, request: Request) -> int:
        return len(await request.body())

    @app.get("/stream")
    async def stream(self, gate: str):
        async def lines():
            for number in range(3):
                yield f"data: {number}\\n\\n"
                while number == 0 and not os.path.exists(gate):
                    await asyncio.sleep(0.01)
        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get("/background")
    async def background(self, gate: str, tasks: BackgroundTasks):
        async def finish():
            while not os.path.exists(gate):
                await asyncio.sleep(0.01)
            Path(gate + ".done").touch()
        tasks.add_task(finish)
        return "answered"

    @app.get("/connected")
    async def connected(self, request: Request):
        return not await request.is_disconnected()

    @app.get("/raises")
    def raises(self):
        raise LookupError("in a thread")

    @app.get("/busy")
    async def busy(self):
        raise BackPressureError(3, 2, 429, 1.5)

    @app.get("/gone")
    async def gone(self):
        raise DeploymentUnavailableError("app#secret", "It was deleted.")

    @app.get("/stalls")
    async def stalls(self, mark: str):
        Path(mark).touch()
        try:
            await asyncio.sleep(600)
        finally:
            Path(mark + ".cancelled").touch()

app.include_router(router)
app.mount("/admin", admin)
shop = Shop.bind(Prices.bind())
"""


@pytest.fixture(scope="module")
def shop(module_run: Callable[..., SalverRun]) -> SalverRun:
    return module_run("app:shop", "--route-prefix", "/shop", files={"app.py": APP})


@pytest.fixture
def own_shop(salver_run: Callable[..., SalverRun]) -> SalverRun:
    """For tests that end it."""
    return salver_run("app:shop", "--port", "0", "--route-prefix", "/shop", files={"app.py": APP})


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def client() -> Generator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_requests_and_what_frameworks_answer_themselves(shop: SalverRun, client: requests.Session) -> None:
    sold = client.post(f"{shop.url}/items/", json={"name": "cup"})
    assert (sold.status_code, sold.json()) == (200, {"name": "cup", "price": 3.0})
    assert sold.headers["x-stamp"] == "200"
    assert client.get(f"{shop.url}/items/0").json() == "cup"

    missing = client.get(f"{shop.url}/items/7")
    assert (missing.status_code, missing.json()) == (404, {"detail": "not sold"})
    assert client.get(f"{shop.url}/items/x").status_code == 422
    assert client.delete(f"{shop.url}/items/0").status_code == 405
    assert client.get(f"{shop.url}/nowhere").json() == {"detail": "Not Found"}
    assert client.get(f"{shop.url}/connected").json() is True

    redirected = client.post(f"{shop.url}/items", json={"name": "pot"}, allow_redirects=False)
    assert redirected.headers["location"] == f"{shop.url}/items/"

    assert client.post(f"{shop.url}/upload", data=b"x" * 3_000_000).json() == 3_000_000


def test_documentation_and_mounts_below_the_prefix(shop: SalverRun, client: requests.Session) -> None:
    page = client.get(f"{shop.url}/docs").text
    assert "'/shop/openapi.json'" in page or '"/shop/openapi.json"' in page

    schema = client.get(f"{shop.url}/openapi.json").json()
    assert schema["info"]["title"] == "Shop"
    assert schema["servers"] == [{"url": "/shop"}]
    assert [p["name"] for p in schema["paths"]["/items/{number}"]["get"]["parameters"]] == ["number"]

    assert client.get(f"{shop.url}/admin/who").json() == ["/shop/admin", f"{shop.url}/admin/who"]
    assert "/shop/admin/openapi.json" in client.get(f"{shop.url}/admin/docs").text


def test_an_exception_is_the_frameworks_500_and_once_in_the_log(
    own_shop: SalverRun, client: requests.Session
) -> None:
    shop = own_shop
    answer = client.get(f"{shop.url}/raises")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert client.get(f"{shop.url}/connected").status_code == 200  # the connection serves on
    shop.wait_for_output("LookupError: in a thread")
    shop.interrupt()
    shop.wait(30)
    assert shop.output().count("GET /shop failed") == 1


def test_errors_of_ours_are_answered_by_the_ingress(shop: SalverRun, client: requests.Session) -> None:
    """Not by the framework, whose middleware is not disturbed either."""
    busy = client.get(f"{shop.url}/busy")
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "2")
    assert busy.text == "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2)."

    gone = client.get(f"{shop.url}/gone")
    assert gone.status_code == 503
    assert "secret" not in gone.text
    assert client.get(f"{shop.url}/connected").status_code == 200


def test_a_stream_arrives_while_it_is_made(shop: SalverRun, client: requests.Session, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with client.get(f"{shop.url}/stream", params={"gate": str(gate)}, stream=True, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == b"data: 0"
        gate.touch()
        assert [line for line in lines if line] == [b"data: 1", b"data: 2"]
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_background_task_outlives_its_answer_and_its_client(shop: SalverRun, tmp_path: Path) -> None:
    gate, done = tmp_path / "gate", tmp_path / "gate.done"
    with requests.Session() as client:
        answer = client.get(f"{shop.url}/background", params={"gate": str(gate)}, timeout=30)
        assert answer.json() == "answered"
    assert not done.exists()
    gate.touch()
    eventually("the task ends", done.exists, 30)


def test_a_background_task_ends_before_its_replica(own_shop: SalverRun, tmp_path: Path) -> None:
    """A replica that drains has told its callers; the task goes on when the last of them is gone."""
    shop = own_shop
    gate, done = tmp_path / "gate", tmp_path / "gate.done"
    assert requests.get(f"{shop.url}/background", params={"gate": str(gate)}, timeout=30).json() == "answered"
    shop.interrupt()
    eventually("the proxy ends", lambda: not shop.pids()["proxy"], 30)
    assert shop.pids()["replica"]
    gate.touch()
    shop.wait(60)
    assert done.exists()


def test_a_client_that_leaves_cancels_its_request(shop: SalverRun, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with socket.create_connection(("127.0.0.1", shop.port), 30) as client:
        client.sendall(f"GET /shop/stalls?mark={mark} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        eventually("it runs", mark.exists, 30)
    eventually("user code is cancelled", (tmp_path / "mark.cancelled").exists, 30)


def test_the_example(salver_run: Callable[..., SalverRun], client: requests.Session) -> None:
    source = (EXAMPLES / "fastapi" / "reviews.py").read_text()
    run = salver_run("reviews:app", "--port", "0", files={"reviews.py": source})
    added = client.post(f"{run.url}reviews", json={"text": "great and lovely but slow"})
    assert (added.status_code, added.json()["number"]) == (201, 0)
    assert client.get(f"{run.url}reviews/0").json() == added.json()
    assert client.post(f"{run.url}reviews", json={"text": ""}).status_code == 422
    run.wait_for_output("a replica is up")


DOCUMENTED = """
from fastapi import FastAPI
from salver import serve

@serve.deployment
@serve.ingress(FastAPI(docs_url="/manual"))
class Web: ...

app = Web.bind()
"""


def test_status_says_where_the_documentation_is(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", "--route-prefix", "/web", files={"app.py": DOCUMENTED})
    assert run.status()["applications"]["default"]["docs_path"] == "/web/manual"
    assert requests.get(f"{run.url}/manual", timeout=10).status_code == 200
