"""What users of Ray Serve know of HTTP there and no other test shows: see docs/reference-coverage.md."""

from __future__ import annotations

import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from websockets.sync.client import connect

from harness.http import get, get_later
from harness.instance import SalverRun
from harness.waiting import eventually
from salver.controller.http_exchange import exchange

WITHIN_S = 30.0

APP = """
import asyncio
import os
import threading
import time
from pathlib import Path

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse

from salver import serve
from salver.serve.context import _get_serve_request_context


def known():
    context = _get_serve_request_context()
    names = ("request_id", "route", "app_name", "is_http_request", "multiplexed_model_id", "session_id")
    return {name: getattr(context, name) for name in names}


@serve.deployment
class Child:
    async def known(self):
        return known()

    def known_in_a_thread(self):
        return known()

    async def letters(self, mark):
        try:
            for letter in "abc":
                yield letter
            if mark:
                await asyncio.Event().wait()
        finally:
            Path(mark or "unmarked").touch()


@serve.deployment(max_ongoing_requests=4)
class Front:
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        return await getattr(self, request.url.path.rsplit("/", 1)[-1])(request)

    async def known(self, request):
        return [known(), await self.child.known.remote(), await self.child.known_in_a_thread.remote()]

    async def headers(self, request):
        return request.headers

    async def query(self, request):
        return request.query_params

    async def file(self, request):
        return FileResponse("some.txt")

    async def cookies(self, request):
        answer = PlainTextResponse("sweet", status_code=202)
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        return answer

    async def background(self, request):
        mark = Path(request.query_params["mark"])
        return PlainTextResponse("first", background=BackgroundTask(mark.touch))


front = Front.bind(Child.bind())


@serve.deployment(num_replicas=3)
async def sessions():
    return os.getpid()


by_session = sessions.bind()


@serve.deployment(max_ongoing_requests=1)
class Pools:
    '''Three threads meet, although there is one slot.'''

    async def __call__(self):
        barrier = threading.Barrier(3)
        waits = [asyncio.to_thread(barrier.wait, 30) for _ in range(3)]
        return sorted(await asyncio.gather(*waits))


pools = Pools.bind()


@serve.deployment
class Blocks:
    '''Does to its event loop what nobody should.'''

    async def __call__(self, request):
        Path(request.query_params["mark"] + ".began").touch()
        while not Path(request.query_params["mark"]).exists():
            time.sleep(0.01)
        return os.getpid()


blocks = Blocks.bind()

api = FastAPI()
nested = FastAPI()
router = APIRouter(prefix="/things")


@nested.get("/deep")
def deep():
    return "deep"


@router.get("/{number}")
def thing(number: int, twice: int = Depends(lambda: 2)):
    return number * twice


@api.websocket("/greet")
async def greet(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.receive()


api.include_router(router)
api.mount("/nested", nested)


@serve.deployment
@serve.ingress(api)
class Empty:
    pass


empty = Empty.bind()


def build():
    app = FastAPI()

    def child():
        return serve.get_deployment_handle("Child")

    @app.get("/known")
    async def child_knows(child=Depends(child)):
        return await child.known.remote()

    return app


without_class = serve.deployment(serve.ingress(build)()).bind(Child.bind())

web = FastAPI()


@serve.deployment(max_ongoing_requests=10)
@serve.ingress(web)
class Web:
    def __init__(self, child):
        self.child = child
        self.letters = child.options(method_name="letters", stream=True)

    @web.get("/letters")
    async def passed_on(self, mark: str = ""):
        return StreamingResponse(self.letters.remote(mark), media_type="text/plain")

    @web.get("/stream")
    async def stream(self):
        async def pieces():
            for _ in range(2):
                yield known()["request_id"] + "\\n"
                yield (await self.child.known.remote())["request_id"] + "\\n"

        return StreamingResponse(pieces())

    @web.get("/background")
    async def background(self, mark: str, tasks: BackgroundTasks):
        async def write():
            Path(mark).write_text((await self.child.known.remote())["request_id"])

        tasks.add_task(write)
        return "first"

    @web.websocket("/known")
    async def websocket(self, websocket: WebSocket):
        await websocket.accept()
        await websocket.send_json([known(), await self.child.known.remote()])


with_self = Web.bind(Child.bind())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, runtime_folder: Path) -> Generator[SalverRun]:
    """One instance with every application of the module."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "known.py").write_text(APP)
    (folder / "some.txt").write_text("some text")
    started = SalverRun.start("salver", "run", "known:front", "--port", "0", "--route-prefix", "/front", cwd=folder)
    try:
        for name in ("by_session", "pools", "blocks", "empty", "with_self", "without_class"):
            options = ("--instance", started.name, "--name", name, "--route-prefix", f"/{name}", "--non-blocking")
            deployed = started.cli("run", f"known:{name}", *options)
            assert deployed.returncode == 0, deployed.stderr
        yield started
    finally:
        started.stop()


@pytest.fixture
def base(run: SalverRun) -> str:
    """URL without a path."""
    return f"http://127.0.0.1:{run.port}"


# --- handlers and what they return --------------------------------------------------------------------------


def test_child_calls_inherit_request_id_and_route(base: str) -> None:
    headers = {"x-request-id": "mine", "serve_multiplexed_model_id": "m", "x-session-id": "s"}
    own, childs, in_a_thread = requests.get(f"{base}/front/known", headers=headers, timeout=WITHIN_S).json()
    request = {"request_id": "mine", "route": "/front", "app_name": "default"}
    assert own == {**request, "is_http_request": True, "multiplexed_model_id": "m", "session_id": "s"}
    assert childs == {**request, "is_http_request": False, "multiplexed_model_id": "", "session_id": ""}
    assert in_a_thread == childs


def test_headers_that_are_not_for_us_reach_the_application(base: str) -> None:
    """Those of tracing, which Salver does not do itself, among them."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = {"traceparent": trace, "x-serve-router-key": "k", "x-request-id": "mine"}
    received = requests.get(f"{base}/front/headers", headers=sent, timeout=WITHIN_S).json()
    assert {name: received[name] for name in sent} == sent


def test_query_parameters_and_headers_can_be_returned(base: str) -> None:
    assert requests.get(f"{base}/front/query?a=b&c=d", timeout=WITHIN_S).json() == {"a": "b", "c": "d"}
    assert requests.get(f"{base}/front/headers", headers={"x-a": "b"}, timeout=WITHIN_S).json()["x-a"] == "b"


def test_responses_of_frameworks_are_sent_as_they_are(base: str, tmp_path: Path) -> None:
    file = requests.get(f"{base}/front/file", timeout=WITHIN_S)
    assert (file.text, file.headers["content-length"]) == ("some text", "9")
    assert {"etag", "last-modified"} <= {name.lower() for name in file.headers}
    part = requests.get(f"{base}/front/file", headers={"range": "bytes=5-8"}, timeout=WITHIN_S)
    assert (part.status_code, part.text) == (206, "text")
    cookies = requests.get(f"{base}/front/cookies", timeout=WITHIN_S)
    assert (cookies.status_code, dict(cookies.cookies)) == (202, {"a": "1", "b": "2"})
    mark = tmp_path / "mark"
    assert requests.get(f"{base}/front/background", params={"mark": str(mark)}, timeout=WITHIN_S).text == "first"
    eventually("the background task has run", mark.exists, WITHIN_S)


def test_streams_and_background_tasks_belong_to_their_request(base: str, tmp_path: Path) -> None:
    """Also what they call, after the handler has returned and even the answer is complete."""
    headers = {"x-request-id": "mine"}
    streamed = requests.get(f"{base}/with_self/stream", headers=headers, timeout=WITHIN_S)
    assert streamed.text == "mine\n" * 4
    mark = tmp_path / "mark"
    url = f"{base}/with_self/background"
    assert requests.get(url, params={"mark": str(mark)}, headers=headers, timeout=WITHIN_S).json() == "first"
    eventually("the task has called", lambda: mark.exists() and mark.read_text() == "mine", WITHIN_S)


def test_a_stream_of_a_callee_is_passed_on_as_it_comes(base: str, tmp_path: Path) -> None:
    assert requests.get(f"{base}/with_self/letters", timeout=WITHIN_S).text == "abc"
    mark = tmp_path / "mark"
    with requests.get(
        f"{base}/with_self/letters", params={"mark": str(mark)}, stream=True, timeout=WITHIN_S
    ) as endless:
        pieces = endless.iter_content(1)
        assert [next(pieces) for _ in range(3)] == [b"a", b"b", b"c"]
        assert not mark.exists()
    eventually("the callee's generator is closed when the client leaves", mark.exists, WITHIN_S)


def test_an_empty_class_serves_an_application_of_functions(base: str) -> None:
    def answer(path: str, method: str = "GET") -> tuple[int, Any]:
        found = requests.request(method, f"{base}/empty{path}", timeout=WITHIN_S)
        return found.status_code, found.json()

    assert answer("/things/3") == (200, 6)
    assert answer("/nested/deep") == (200, "deep")
    assert answer("/things/three")[0] == 422
    assert answer("/things/3", "POST") == (405, {"detail": "Method Not Allowed"})
    assert answer("/nowhere") == (404, {"detail": "Not Found"})
    assert answer("/openapi.json")[1]["servers"] == [{"url": "/empty"}]
    assert "/empty/openapi.json" in requests.get(f"{base}/empty/docs", timeout=WITHIN_S).text


def test_an_application_of_functions_needs_no_class(run: SalverRun, base: str) -> None:
    known = requests.get(f"{base}/without_class/known", timeout=WITHIN_S).json()
    assert (known["route"], known["app_name"]) == ("/without_class", "without_class")
    assert set(run.status()["applications"]["without_class"]["deployments"]) == {"Child", "ASGIIngressDeployment"}


# --- threads and loops --------------------------------------------------------------------------------------


def test_threads_of_user_code_are_not_those_of_requests(base: str) -> None:
    """``asyncio.to_thread`` has a pool of its own, whatever ``max_ongoing_requests`` is."""
    assert get(f"{base}/pools").body == "[0,1,2]"


def test_a_blocked_loop_holds_up_its_own_replica_only(run: SalverRun, base: str, tmp_path: Path) -> None:
    """Nobody takes it for dead; what waits for it is answered when it goes on."""
    mark = tmp_path / "mark"
    first = get_later(f"{base}/blocks?mark={mark}")
    eventually("it blocks", (tmp_path / "mark.began").exists, WITHIN_S)
    second = get_later(f"{base}/blocks?mark={mark}")
    assert get(f"{base}/-/healthz").body == "success"
    assert get(f"{base}/pools").status == 200
    (replica,) = run.status()["applications"]["blocks"]["deployments"]["Blocks"]["replicas"]
    assert replica["state"] == "RUNNING"
    mark.touch()
    assert first.result(WITHIN_S).body == second.result(WITHIN_S).body == str(replica["pid"])


# --- the proxy ----------------------------------------------------------------------------------------------


def test_requests_of_a_session_stay_at_one_replica(base: str) -> None:
    def pid(session: str) -> int:
        return requests.get(f"{base}/by_session", headers={"x-session-id": session}, timeout=WITHIN_S).json()

    where = {f"session {number}": pid(f"session {number}") for number in range(30)}
    assert len(set(where.values())) == 3, "sessions are spread"
    with ThreadPoolExecutor(2) as pool:
        for session, replica in where.items():
            assert set(pool.map(pid, [session] * 4)) == {replica}


def test_websockets_that_end_well_are_no_errors(run: SalverRun, base: str) -> None:
    for code in (1000, 1001):
        with connect(f"ws://127.0.0.1:{run.port}/empty/greet", open_timeout=WITHIN_S) as client:
            assert client.recv(timeout=WITHIN_S) == "hello"
            client.close(code)
    eventually("both are counted", lambda: count(run, "serve_num_http_requests", "101") == 2, WITHIN_S)
    assert count(run, "serve_num_http_error_requests", "101") == 0


def count(run: SalverRun, name: str, code: str) -> float:
    """What a counter of HTTP requests says of the application ``empty``."""
    status, body = exchange(run.folder / "control.sock", "GET", "/api/serve/metrics", None, WITHIN_S)
    assert status == 200
    families = {family["name"]: family["series"] for family in msgspec.json.decode(body)}
    wanted = {("application", "empty"), ("status_code", code), ("error_code", code)}
    return sum(each["value"] for each in families.get(name, []) if len(wanted & set(each["tags"].items())) == 2)


def test_a_websocket_is_a_request_like_any_other(run: SalverRun) -> None:
    headers = {"x-request-id": "mine", "x-session-id": "s"}
    url = f"ws://127.0.0.1:{run.port}/with_self/known"
    with connect(url, additional_headers=headers, open_timeout=WITHIN_S) as client:
        own, childs = json.loads(client.recv(timeout=WITHIN_S))
    assert own["request_id"] == childs["request_id"] == "mine"
    assert own["route"] == childs["route"] == "/with_self"
    assert (own["session_id"], childs["session_id"]) == ("s", "")
    assert (own["is_http_request"], childs["is_http_request"]) == (True, False)


def test_a_failed_deployment_answers_503(run: SalverRun, base: str) -> None:
    (run.cwd / "fails.py").write_text("""
from salver import serve

@serve.deployment(max_constructor_retry_count=1)
class Fails:
    def __init__(self):
        raise LookupError("no weights")

    def __call__(self):
        return "never"

app = Fails.bind()
""")
    options = ("--instance", run.name, "--name", "fails", "--route-prefix", "/fails", "--non-blocking")
    assert run.cli("run", "fails:app", *options).returncode == 1
    answer = get(f"{base}/fails")
    assert (answer.status, answer.body) == (503, "The application is unavailable.")
    assert answer.headers["retry-after"] == "1"
    assert get(f"{base}/-/healthz").body == "success", "the others go on"
