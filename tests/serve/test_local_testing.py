"""Local testing mode: applications in this process, called by handles and over HTTP without a socket."""

from __future__ import annotations

import asyncio
import socket
import threading
import warnings
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx
import pytest
import uvloop
from fastapi import FastAPI, WebSocket
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from salver import serve
from salver.serve.exceptions import ServeException
from salver.serve.handle import DeploymentHandle
from salver.serve.local.websocket import WebSocketRefused

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


def test_starlettes_test_client_with_its_websockets() -> None:
    app = FastAPI()

    @app.websocket("/double")
    async def double(websocket: WebSocket) -> None:
        await websocket.accept(websocket.scope["subprotocols"][0])
        await websocket.send_json(2 * (await websocket.receive_json())["number"])
        await websocket.close(4000, "done")

    @serve.deployment
    @serve.ingress(app)
    class Hosted:
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have a successor of httpx
        from starlette.testclient import TestClient
    serve.run(Hosted.bind(), local=True, route_prefix="/app")
    with (
        TestClient(serve.local_client().asgi) as client,
        client.websocket_connect("/app/double", subprotocols=["v1"]) as websocket,
    ):
        assert websocket.accepted_subprotocol == "v1"
        websocket.send_json({"number": 21})
        assert websocket.receive_json() == 42
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_json()
        assert (closed.value.code, closed.value.reason) == (4000, "done")
        assert client.get("/app/nowhere").status_code == 404


def test_websockets_have_what_tests_need() -> None:
    app = FastAPI()

    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        if "refused" in websocket.query_params:
            await websocket.send_denial_response(PlainTextResponse("not you", 401))
            return
        await websocket.accept(headers=[(b"x-mine", b"1")])
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await websocket.send({**message, "type": "websocket.send"})

    @serve.deployment
    @serve.ingress(app)
    class Hosted:
        pass

    serve.run(Hosted.bind(), local=True)
    client = serve.local_client(timeout_s=10)
    with client.websocket_connect("/echo", headers={"x-request-id": "mine"}) as websocket:
        assert (websocket.headers["x-mine"], websocket.headers["x-request-id"]) == ("1", "mine")
        websocket.send_json({"a": 1})
        assert websocket.receive_json() == {"a": 1}
        websocket.send_bytes(b"\x00")
        assert websocket.receive_bytes() == b"\x00"
        websocket.send_text("text")
        with pytest.raises(TypeError, match="a str message came, not bytes"):
            websocket.receive_bytes()
        websocket.send_bytes(b"x" * (16 * 1024 * 1024 + 1))
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 1009
    with (
        pytest.raises(WebSocketRefused, match="status 401: not you") as refused,
        client.websocket_connect("/echo?refused"),
    ):
        pass
    assert refused.value.response.status_code == 401


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


def test_a_stream_is_held_up_and_cancelled_where_its_reader_leaves() -> None:
    start()
    with serve.local_client().stream("GET", "/stream") as answer:
        assert (answer.status_code, len(answer.headers["x-request-id"])) == (200, 36)
        assert next(answer.iter_bytes()) == b"0"
        assert answer.read() == b"12"
    with (
        pytest.raises(ConnectionError, match="in the middle"),
        serve.local_client().stream("GET", "/breaks") as answer,
    ):
        answer.read()


def test_a_reader_may_leave_before_the_stream_breaks() -> None:
    start()
    with serve.local_client().stream("GET", "/breaks") as answer:
        assert answer.status_code == 200


def test_a_session_ends_while_its_client_still_reads() -> None:
    start()
    with serve.local_client(timeout_s=10).stream("GET", "/stream") as answer:
        next(answer.iter_bytes())
        serve.shutdown()
        with pytest.raises(ServeException, match="has ended"):
            answer.read()


@pytest.mark.parametrize("name", ["SALVER_FORCE_LOCAL_TESTING_MODE", "RAY_SERVE_FORCE_LOCAL_TESTING_MODE"])
def test_local_testing_by_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ServeException, match="local testing is forced"):
        serve.status()
    serve.start(http_options={"port": 1, "request_timeout_s": 0.2})
    serve.run(Web.bind(Child.bind()))
    assert serve.local_client().get("/double?n=2").json() == 4
    assert serve.local_client().get("/wait").status_code == 504
    serve.shutdown()
    assert serve.run(Child.bind()).double.remote(1).result(timeout_s=10) == 2
    serve.local_client()


def test_options_without_effect_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    actor = {"num_gpus": 1, "runtime_env": {"pip": ["x"]}, "num_cpus": 2}
    serve.run(Child.options(ray_actor_options=actor).bind(), local=True)
    told = [record.getMessage() for record in caplog.records if record.name == "salver.serve"]
    assert [text.partition(" has no effect")[0] for text in told] == [
        "local testing: num_gpus of deployment 'Child'",
        "local testing: runtime_env of deployment 'Child'",
    ]


@serve.deployment
class OnTheLoop:
    """Asks for what would wait for its own thread."""

    async def request(self) -> str:
        with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
            serve.local_client().get("/")
        return (await asyncio.to_thread(serve.local_client().get, "/-/healthz")).text

    async def delete(self) -> None:
        serve.delete("other", _blocking=False)

    async def shut_down(self) -> None:
        serve.shutdown()


def test_code_in_a_replica_cannot_wait_for_its_own_loop() -> None:
    handle = serve.run(OnTheLoop.bind(), local=True)
    serve.run(Child.bind(), name="other", route_prefix=None)
    assert handle.request.remote().result(timeout_s=10) == "success"
    handle.delete.remote().result(timeout_s=10)
    serve.delete("other")
    with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
        handle.shut_down.remote().result(timeout_s=10)
    assert list(serve.status().applications) == ["default"]


def test_local_and_real_do_not_mix() -> None:
    serve.start(http_options={"port": 0})
    with pytest.raises(ServeException, match=r"local=True: call serve\.shutdown"):
        serve.run(Child.bind(), local=True)
