"""A FastAPI application as the ingress: routes with ``self``, lifespan, dependencies, docs, errors, WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from salver import serve
from salver.serve.handle import DeploymentHandle

from .world import World, soon


class Item(BaseModel):
    """A body that is checked."""

    name: str
    price: float = 1.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    app.state.started = True
    yield {"of_lifespan": "state"}


def build_app() -> FastAPI:
    app = FastAPI(title="Shop", lifespan=lifespan)
    app.mount("/admin", build_admin())
    return app


def build_admin() -> FastAPI:
    admin = FastAPI()

    @admin.get("/where")
    def where(request: Request) -> list[str]:
        return [request.scope["root_path"], request.url.path]

    return admin


app = build_app()
router = APIRouter(prefix="/items")


async def page_size(size: int = 10) -> int:
    return 2 * size


@serve.deployment
class Prices:
    def of(self, name: str) -> float:
        if name == "gold":
            raise LookupError("too dear")
        return float(len(name))


@serve.deployment(max_ongoing_requests=20)
@serve.ingress(app)
class Shop:
    def __init__(self, prices: DeploymentHandle[Any]) -> None:
        self.prices = prices
        self.sold: list[str] = []
        self.closed_with: list[Any] = []

    @router.post("/")
    async def sell(self, item: Item) -> Item:
        self.sold.append(item.name)
        return Item(name=item.name, price=await self.prices.of.remote(item.name))

    @router.get("/{number}")
    def one(self, number: int) -> str:
        if number >= len(self.sold):
            raise HTTPException(404, "not sold")
        return self.sold[number]

    @app.get("/pages")
    async def pages(self, size: Annotated[int, Depends(page_size)], request: Request) -> list[Any]:
        return [size, app.state.started, request.state.of_lifespan]

    @app.get("/events")
    async def events(self) -> StreamingResponse:
        async def lines() -> AsyncGenerator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.websocket("/chat")
    async def chat(self, websocket: WebSocket) -> None:
        offered: list[str] = websocket.scope["subprotocols"]
        if "refused" in offered:
            await websocket.close()
            return
        await websocket.accept(offered[-1] if offered else None, [(b"x-mine", b"1")])
        try:
            while (text := await websocket.receive_text()) != "bye":
                await websocket.send_text(f"{text} {await self.prices.of.remote(text)}")
            await websocket.send_bytes(b"\x00" * 200_000)
            await websocket.close(4001, "as you wish")
        except WebSocketDisconnect as left:
            self.closed_with.append((left.code, left.reason))

    async def count(self) -> int:
        return len(self.sold)

    async def closes(self) -> list[Any]:
        return self.closed_with


app.include_router(router)


@pytest.fixture
def shop(world: World) -> World:
    world.run(Shop.bind(Prices.bind()), route_prefix="/shop")
    return world


def test_routes_bodies_and_handle_calls(shop: World) -> None:
    assert shop.post("/shop/items/", json={"name": "plate"}).json() == {"name": "plate", "price": 5.0}
    assert shop.get("/shop/items/0").json() == "plate"
    handle = serve.get_app_handle("app")
    assert handle.count.remote().result(timeout_s=30) == 1


def test_errors_are_those_of_fastapi(shop: World) -> None:
    wrong = shop.post("/shop/items/", json={"price": 1})
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "name"])
    gone = shop.get("/shop/items/7")
    assert (gone.status_code, gone.json()) == (404, {"detail": "not sold"})
    assert shop.get("/shop/nowhere").json() == {"detail": "Not Found"}
    assert shop.request("PUT", "/shop/items/7").status_code == 405
    failed = shop.post("/shop/items/", json={"name": "gold"})
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")


def test_dependencies_and_lifespan_state(shop: World) -> None:
    assert shop.get("/shop/pages?size=4").json() == [8, True, "state"]


def test_docs_and_mounts_know_their_prefix(shop: World) -> None:
    schema = shop.get("/shop/openapi.json").json()
    assert schema["servers"] == [{"url": "/shop"}]
    assert {"/items/", "/items/{number}", "/pages", "/events"} <= schema["paths"].keys()
    parameters = schema["paths"]["/items/{number}"]["get"]["parameters"]
    assert [each["name"] for each in parameters] == ["number"]
    assert "/shop/openapi.json" in shop.get("/shop/docs").text
    assert shop.get("/shop/admin/where").json() == ["/shop/admin", "/shop/admin/where"]


def test_streams(shop: World) -> None:
    with shop.stream("/shop/events") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert b"".join(answer.iter_bytes()) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_a_websocket_until_the_application_closes(shop: World) -> None:
    with shop.websocket("/shop/chat", ["v1", "v2"]) as socket:
        assert socket.subprotocol == "v2"
        for text in ("plate", "käse"):
            socket.send_text(text)
            assert socket.receive() == f"{text} {float(len(text))}"
        socket.send_text("bye")
        assert socket.receive() == b"\x00" * 200_000
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive()
        assert (closed.value.code, closed.value.reason) == (4001, "as you wish")


def test_a_websocket_until_the_client_closes(shop: World) -> None:
    with shop.websocket("/shop/chat", []) as socket:
        assert socket.subprotocol is None
        socket.send_text("plate")
        socket.receive()
        socket.close(3000, "enough")
    handle = serve.get_app_handle("app")
    soon("the application hears it", lambda: handle.closes.remote().result(timeout_s=30) == [(3000, "enough")])


def test_a_websocket_that_fails_or_is_refused(shop: World) -> None:
    with shop.websocket("/shop/chat", []) as socket:
        socket.send_text("gold")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive()
        assert closed.value.code == 1011
    with pytest.raises(Exception, match="403"), shop.websocket("/shop/chat", ["refused"]):
        pass


def test_a_subclass_of_an_ingress(world: World) -> None:
    base = FastAPI()

    @serve.ingress(base)
    class Base:
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        @base.get("/greeting")
        def greet(self) -> str:
            return self.greeting

        @base.get("/name")
        def name(self) -> str:
            return "base"

    @serve.deployment
    class Derived(Base):
        def __init__(self) -> None:
            super().__init__("hello")

        def name(self) -> str:
            return "derived"

    world.run(Derived.bind())
    assert world.get("/greeting").json() == "hello"
    assert world.get("/name").json() == "derived"


def test_lifespan_runs_in_each_replica_and_ends_with_it(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @asynccontextmanager
    async def noted(app: FastAPI) -> AsyncGenerator[None]:
        note(log, "started")
        yield
        await asyncio.sleep(0)
        note(log, "stopped")

    hosted = FastAPI(lifespan=noted)

    @serve.deployment(num_replicas=2)
    @serve.ingress(hosted)
    class Hosted:
        pass

    world.run(Hosted.bind())
    assert log.read_text().split() == ["started"] * 2
    serve.delete("app")
    soon("both shut down", lambda: log.read_text().split() == ["started"] * 2 + ["stopped"] * 2)


def test_a_lifespan_that_fails_fails_the_deployment(world: World) -> None:
    @asynccontextmanager
    async def failing(app: FastAPI) -> AsyncGenerator[None]:
        raise LookupError("no database")
        yield

    hosted = FastAPI(lifespan=failing)

    @serve.deployment(max_constructor_retry_count=1)
    @serve.ingress(hosted)
    class Hosted:
        pass

    with pytest.raises(RuntimeError, match="LookupError: no database"):
        world.run(Hosted.bind())


def note(log: Path, what: str) -> None:
    with log.open("a") as file:
        file.write(f"{what}\n")
