"""What handlers see of an HTTP request, streams in both directions, deadlines, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from salver import serve
from salver.serve.context import _get_serve_request_context
from salver.serve.handle import DeploymentHandle

from .world import World, soon

mark: ContextVar[str] = ContextVar("mark", default="unset")


@serve.deployment(max_ongoing_requests=20)
class Child:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def known(self) -> dict[str, Any]:
        return known()

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    async def all_seen(self) -> list[str]:
        return self.seen


@serve.deployment(max_ongoing_requests=20)
class Front:
    """Does what the path says."""

    def __init__(self, child: DeploymentHandle[Any]) -> None:
        self.child = child
        self.seen: list[str] = []
        self.pulled = 0
        self.may_go_on = asyncio.Event()

    async def __call__(self, request: Request) -> Any:
        what = request.url.path.removeprefix(request.scope["root_path"]).strip("/")
        return await getattr(self, what)(request)

    async def echo(self, request: Request) -> Any:
        body = await request.body()
        interesting = ("content-length", "content-type", "accept", "host", "x-mine", "serve_multiplexed_model_id")
        return {
            "method": request.method,
            "path": request.url.path,
            "root_path": request.scope["root_path"],
            "raw_path": request.scope["raw_path"].decode(),
            "query": request.url.query,
            "body": body.decode(),
            "headers": sorted(name for name in interesting if name in request.headers),
            "length": request.headers.get("content-length"),
            "http_version": request.scope["http_version"],
        }

    async def size(self, request: Request) -> int:
        return sum([len(piece) async for piece in request.stream()])

    async def known(self, request: Request) -> Any:
        before = mark.get()
        mark.set("set by the request")
        return {"own": known(), "before": before, "child": await self.child.known.remote()}

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self.two_events(), media_type="text/event-stream")

    async def two_events(self) -> AsyncGenerator[str]:
        yield "data: 1\n\n"
        await self.may_go_on.wait()
        yield "data: 2\n\n"
        self.seen.append("sent all")

    async def endless(self, request: Request) -> Response:
        return StreamingResponse(self.endless_pieces())

    async def endless_pieces(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                self.pulled += 1
        finally:
            self.seen.append("stopped")

    async def wait(self, request: Request) -> None:
        await self.child.wait.remote()

    async def go_on(self) -> None:
        self.may_go_on.set()

    async def all_seen(self) -> list[str]:
        return self.seen

    async def all_pulled(self) -> int:
        return self.pulled


def known() -> dict[str, Any]:
    context = _get_serve_request_context()
    return {
        "mark": mark.get(),
        "id": context.request_id,
        "route": context.route,
        "app": context.app_name,
        "model": context.multiplexed_model_id,
        "http": context.is_http_request,
        "deadline": context.deadline is not None,
    }


def start(world: World, route_prefix: str = "/") -> DeploymentHandle[Any]:
    return world.run(Front.bind(Child.bind()), route_prefix=route_prefix)


def test_what_the_handler_sees(world: World) -> None:
    start(world, "/front")
    got = world.post("/front/echo?a=1&b=%20", json={"x": "é"}, headers={"X-Mine": "1"}).json()
    assert json.loads(got.pop("body")) == {"x": "é"}
    assert int(got.pop("length")) > 0
    assert got == {
        "method": "POST",
        "path": "/front/echo",
        "root_path": "/front",
        "raw_path": "/front/echo",
        "query": "a=1&b=%20",
        "headers": ["accept", "content-length", "content-type", "host", "x-mine"],
        "http_version": "1.1",
    }
    empty = world.post("/front/echo").json()
    assert (empty["body"], empty["length"]) == ("", "0")
    assert world.get("/front/echo").json()["length"] is None


def test_bodies_of_all_sizes(world: World) -> None:
    start(world)
    for size in (0, 1, 64 * 1024, 64 * 1024 + 1, 3_000_000):
        assert world.post("/size", content=b"x" * size).json() == size


def test_a_body_over_the_limit_is_refused(world: World) -> None:
    start(world)
    answer = world.post("/size", content=b"x" * (64 * 1024 * 1024 + 1))
    assert (answer.status_code, answer.text.strip()) == (413, "the body has more than 67108864 bytes")


def test_a_stream_comes_as_it_is_sent(world: World) -> None:
    handle = start(world)
    with world.stream("/events") as answer:
        pieces = answer.iter_bytes()
        assert next(pieces) == b"data: 1\n\n"
        handle.go_on.remote().result(timeout_s=30)
        assert b"".join(pieces) == b"data: 2\n\n"


def test_a_client_that_does_not_read_holds_up_the_generator_and_one_that_leaves_stops_it(world: World) -> None:
    handle = start(world)
    with world.stream("/endless") as answer:
        assert next(answer.iter_bytes()).startswith(b"x")
        most = settled(handle)
        assert most < 20_000  # kilobytes: the sockets' buffers, where there are any, and two windows
    soon("the generator is stopped", lambda: handle.all_seen.remote().result(timeout_s=30) == ["stopped"])


def test_a_request_may_outlive_its_client(world: World) -> None:
    handle = start(world)
    with world.stream("/events", headers={"x-request-disconnect-disabled": "?1"}) as answer:
        assert next(answer.iter_bytes()) == b"data: 1\n\n"
    handle.go_on.remote().result(timeout_s=30)
    soon("it is sent to the end", lambda: handle.all_seen.remote().result(timeout_s=30) == ["sent all"])


def settled(handle: DeploymentHandle[Any]) -> int:
    """How far the generator has come when it gets no further."""
    last = -1

    def stands_still() -> bool:
        nonlocal last
        before, last = last, handle.all_pulled.remote().result(timeout_s=30)
        return before == last

    soon("the generator is held up", stands_still)
    return last


def test_a_deadline_reaches_everything_that_the_request_calls(world: World) -> None:
    start(world)
    answer = world.get("/wait", headers={"x-request-timeout-seconds": "0.5", "x-request-id": "mine"})
    assert (answer.status_code, answer.text) == (504, "Request mine timed out after 0.5s.")
    child: DeploymentHandle[Any] = serve.get_deployment_handle("Child", "app")
    soon("it is cancelled", lambda: child.all_seen.remote().result(timeout_s=30) == ["cancelled"])
    got = world.get("/known", headers={"x-request-timeout-seconds": "60"}).json()
    assert (got["own"]["deadline"], got["child"]["deadline"]) == (True, True)
    assert world.get("/known").json()["child"]["deadline"] is False


def test_wrong_headers_are_refused_alike(world: World) -> None:
    start(world)
    answer = world.get("/known", headers={"x-request-timeout-seconds": "soon"})
    assert (answer.status_code, answer.text.strip()) == (400, "x-request-timeout-seconds is not a number")


def test_what_code_knows_of_its_request(world: World) -> None:
    start(world, "/front")
    headers = {"x-request-id": "mine", "serve_multiplexed_model_id": "m1"}
    for _ in range(2):  # nothing of the first request is left for the second
        got = world.get("/front/known", headers=headers).json()
        assert got["before"] == "unset"
        common = {"id": "mine", "route": "/front", "app": "app", "deadline": False}
        assert got["own"] == {**common, "mark": "set by the request", "model": "m1", "http": True}
        assert got["child"] == {**common, "mark": "unset", "model": "", "http": False}


def test_a_plain_handler_does_not_speak_websocket(world: World) -> None:
    start(world)
    with pytest.raises(Exception, match="400"), world.websocket("/echo", []):
        pass


def test_websockets_to_nowhere_are_refused(world: World) -> None:
    start(world, "/front")
    with pytest.raises(Exception, match="404") as refused, world.websocket("/elsewhere", []):
        pass
    assert not isinstance(refused.value, WebSocketDisconnect)
