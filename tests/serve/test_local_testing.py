"""Local testing mode: applications in this process, called by handles and over HTTP without a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx
import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import StreamingResponse

from salver import serve
from salver.serve.exceptions import ServeException
from salver.serve.handle import DeploymentHandle

uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good


@pytest.fixture(autouse=True)
def ended() -> Generator[None]:
    yield
    serve.shutdown()


@serve.deployment(num_replicas=2, max_ongoing_requests=10)
class Child:
    async def double(self, number: int) -> int:
        return 2 * number


@serve.deployment(max_ongoing_requests=10)
class Web:
    cancelled = threading.Event()

    def __init__(self, child: DeploymentHandle[Any]) -> None:
        self.child = child

    async def __call__(self, request: Request) -> Any:
        what = request.url.path.removeprefix(request.scope["root_path"]).strip("/")
        if what == "double":
            return await self.child.double.remote(int(request.query_params["n"]))
        if what == "echo":
            return {"body": (await request.body()).decode(), "type": request.headers.get("content-type")}
        if what == "size":
            return sum([len(piece) async for piece in request.stream()])
        if what == "stream":
            return StreamingResponse(self.pieces())
        if what == "breaks":
            return StreamingResponse(self.breaks())
        if what == "raises":
            raise ValueError("not for clients")
        if what == "wait":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return None

    async def pieces(self) -> AsyncGenerator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def breaks(self) -> AsyncGenerator[bytes]:
        yield b"part"
        raise ValueError("in the middle")


def start(route_prefix: str = "/") -> DeploymentHandle[Any]:
    return serve.run(Web.bind(Child.bind()), route_prefix=route_prefix, local=True)


def test_requests_reach_the_application_and_its_children() -> None:
    start()
    answer = serve.local_client().get("/double", params={"n": "21"})
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (200, 42, "application/json")
    assert len(answer.headers["x-request-id"]) == 36


def test_nothing_listens_and_no_process_starts() -> None:
    start()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 8000)) != 0
    assert serve.status().applications["default"].status == "RUNNING"


def test_bodies_small_and_streamed() -> None:
    start()
    client = serve.local_client()
    assert client.post("/echo", json={"a": 1}).json() == {"body": '{"a": 1}', "type": "application/json"}
    assert client.post("/echo", content="text").json() == {"body": "text", "type": None}
    assert client.post("/size", content=b"x" * 3_000_000).json() == 3_000_000


def test_streams_come_in_their_pieces() -> None:
    start()
    answer = serve.local_client().get("/stream")
    assert (answer.chunks, answer.text) == ([b"0", b"1", b"2"], "012")


def test_failures_are_those_of_the_real_ingress() -> None:
    start("/app")
    client = serve.local_client()
    assert (client.get("/app/raises").status_code, client.get("/app/raises").text) == (500, "Internal Server Error")
    missing = client.get("/elsewhere", headers={"accept": "application/json"})
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:salver:problem:no-route")
    assert client.get("/-/routes").json() == {"/app": "default"}
    assert client.get("/-/healthz").text == "success"
    with pytest.raises(ConnectionError, match="in the middle"):
        client.get("/app/breaks")


def test_deadlines_cancel() -> None:
    start()
    Web.func_or_class.cancelled.clear()
    answer = serve.local_client().get("/wait", headers={"x-request-timeout-seconds": "0.2", "x-request-id": "mine"})
    assert (answer.status_code, answer.text) == (504, "Request mine timed out after 0.2s.")
    assert Web.func_or_class.cancelled.wait(10)


def test_a_client_that_gives_up_cancels_its_request() -> None:
    start()
    Web.func_or_class.cancelled.clear()
    with pytest.raises(TimeoutError):
        serve.local_client(timeout_s=0.2).get("/wait")
    assert Web.func_or_class.cancelled.wait(10)


def test_other_test_clients_on_their_own_loop() -> None:
    start()
    asgi = serve.local_client().asgi

    async def test() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get(f"/double?n={number}") for number in range(50)))
            assert [answer.json() for answer in answers] == [2 * number for number in range(50)]
            assert (await client.get("/stream")).text == "012"
            assert (await client.post("/size", content=b"x" * 1_000_000)).json() == 1_000_000

    asyncio.run(test())


def test_handles_work_beside_it() -> None:
    start()
    assert serve.get_deployment_handle("Child", "default").double.remote(4).result(timeout_s=10) == 8


def test_ray_serves_name_of_it() -> None:
    handle = serve.run(Child.bind(), _local_testing_mode=True, route_prefix=None)
    assert handle.double.remote(1).result(timeout_s=10) == 2
    assert serve.local_client().get("/").status_code == 404


def test_without_a_session_the_client_says_what_to_do() -> None:
    with pytest.raises(ServeException, match="local=True"):
        serve.local_client()
