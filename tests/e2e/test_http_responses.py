"""What a handler gets of an HTTP request, and what becomes of what it returns."""

from __future__ import annotations

import hashlib
import http.client
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from harness.instance import SalverRun

WITHIN_S = 30.0

APP = '''
"""Every kind of handler result, by path."""

import asyncio
import dataclasses
import datetime
import enum
import hashlib
import json
import logging
import threading
import uuid

import numpy as np
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from salver import serve

log = logging.getLogger("ray.serve")


@dataclasses.dataclass
class Point:
    x: int
    y: list[float]


class Model(BaseModel):
    name: str
    when: datetime.date


class Color(enum.Enum):
    RED = "red"


RESULTS = {
    "text": "héllo",
    "bytes": b"\\x00\\xff",
    "none": None,
    "dict": {"a": [1, 2.5, True, None], "b": "é"},
    "list": [1, "two"],
    "number": 7,
    "dataclass": Point(1, [2.0]),
    "pydantic": Model(name="m", when=datetime.date(2024, 2, 29)),
    "array": np.arange(6).reshape(2, 3),
    "scalar": np.float32(0.5),
    "nested": {"points": [Point(1, [])], "array": np.zeros(2), "color": Color.RED},
    "set": {1},
    "uuid": uuid.UUID(int=1),
    "exception": ValueError("as a value"),
    "response": Response("short", status_code=418, headers={"x-kind": "teapot"}, media_type="text/x-tea"),
    "json-response": JSONResponse({"a": 1}, status_code=201),
    "redirect": RedirectResponse("/text"),
    "no-content": Response(status_code=204),
    "large": b"x" * 5_000_000,
    "object": object(),
}


@serve.deployment(max_ongoing_requests=20)
class Handler:
    def __init__(self):
        self.go = asyncio.Event()
        self.go_thread = threading.Event()

    async def __call__(self, request: Request):
        name = request.url.path.removeprefix("/")
        if name in RESULTS:
            return RESULTS[name]
        return await getattr(self, name.replace("-", "_"))(request)

    async def echo(self, request):
        log.info("echoing")
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.query_params.multi_items(),
            "headers": [[name, value] for name, value in request.headers.items()],
            "cookies": request.cookies,
            "client": request.client.host,
            "body": (await request.body()).decode(),
        }

    async def digest(self, request):
        digest, size = hashlib.sha256(), 0
        async for chunk in request.stream():
            digest.update(chunk)
            size += len(chunk)
        return {"sha256": digest.hexdigest(), "size": size}

    async def fail(self, request):
        raise ValueError("user code fails")

    async def proceed(self, request):
        self.go.set()
        self.go_thread.set()

    async def _chunks(self):
        yield "first,"
        await self.go.wait()
        yield "second"

    def _chunks_in_thread(self):
        yield "first,"
        assert self.go_thread.wait(30)
        yield "second"

    async def stream_response(self, request):
        return StreamingResponse(self._chunks(), media_type="text/csv", headers={"x-kind": "stream"})

    async def stream_response_of_a_thread(self, request):
        return StreamingResponse(self._chunks_in_thread(), media_type="text/plain")

    async def generator(self, request):
        return self._chunks_in_thread()

    async def async_generator(self, request):
        return self._chunks()

    async def large_stream(self, request):
        async def pieces():
            for number in range(500):
                yield bytes([number % 256]) * 10_000

        return StreamingResponse(pieces())

    async def broken_stream(self, request):
        async def pieces():
            yield "first,"
            raise ValueError("user code fails midway")

        return StreamingResponse(pieces())


app = Handler.bind()


@serve.deployment(max_ongoing_requests=2)
class InThreads:
    """``def`` handlers run in threads: two meet at the barrier only when they run at once."""

    def __init__(self):
        self.barrier = threading.Barrier(2)

    def __call__(self, request: Request):
        self.barrier.wait(30)
        log.info("met")
        return threading.current_thread() is not threading.main_thread()


in_threads = InThreads.bind()


@serve.deployment
class WithoutParameters:
    def __call__(self):
        return "no parameters"


without_parameters = WithoutParameters.bind()


@serve.deployment
async def function(request: Request):
    return request.url.path


of_function = function.bind()


@serve.deployment
def function_without_parameters():
    return "no parameters"


of_function_without_parameters = function_without_parameters.bind()


@serve.deployment
class AsyncGenerator:
    async def __call__(self, request: Request):
        yield "a"
        yield b"b"


async_generator = AsyncGenerator.bind()


@serve.deployment
class SyncGenerator:
    def __call__(self, request: Request):
        yield "a"
        yield "b"


sync_generator = SyncGenerator.bind()


@serve.deployment
class NoCall:
    def method(self):
        pass


no_call = NoCall.bind()
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.py").write_text(APP)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, runtime_folder: Path) -> Generator[SalverRun]:
    """One instance for all tests that do not change it."""
    started = SalverRun.start("salver", "run", "app:app", "--port", "0", cwd=folder)
    yield started
    started.stop()


@pytest.fixture
def client() -> Generator[requests.Session]:
    with requests.Session() as session:
        yield session


def test_a_large_request_body(run: SalverRun, client: requests.Session) -> None:
    body = bytes(range(256)) * 20_000
    expected = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    assert client.post(f"{run.url}digest", data=body, timeout=WITHIN_S).json() == expected
    in_pieces = (body[start : start + 70_000] for start in range(0, len(body), 70_000))
    assert client.post(f"{run.url}digest", data=in_pieces, timeout=WITHIN_S).json() == expected


# --- what the handler gets ----------------------------------------------------------------------------------


def test_the_request_arrives_whole(run: SalverRun, client: requests.Session) -> None:
    answer = client.put(
        f"{run.url}echo?a=1&b=x%20y&a=2",
        data="höllo".encode(),
        headers={"x-custom": "Value", "cookie": "k=v"},
        timeout=WITHIN_S,
    ).json()
    headers = dict(answer.pop("headers"))
    assert answer == {
        "method": "PUT",
        "path": "/echo",
        "query": [["a", "1"], ["b", "x y"], ["a", "2"]],
        "cookies": {"k": "v"},
        "client": "127.0.0.1",
        "body": "höllo",
    }
    assert headers["x-custom"] == "Value"
    assert headers["host"] == f"127.0.0.1:{run.port}"
    assert headers["content-length"] == "6"


# --- what it returns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "content_type", "body"),
    [
        ("text", 200, "text/plain; charset=utf-8", "héllo".encode()),
        ("bytes", 200, "text/plain", b"\x00\xff"),
        ("none", 200, "text/plain", b""),
        ("dict", 200, "application/json", b'{"a":[1,2.5,true,null],"b":"\\u00e9"}'),
        ("list", 200, "application/json", b'[1,"two"]'),
        ("number", 200, "application/json", b"7"),
        ("dataclass", 200, "application/json", b'{"x":1,"y":[2.0]}'),
        ("pydantic", 200, "application/json", b'{"name":"m","when":"2024-02-29"}'),
        ("array", 200, "application/json", b"[[0,1,2],[3,4,5]]"),
        ("scalar", 200, "application/json", b"0.5"),
        ("nested", 200, "application/json", b'{"points":[{"x":1,"y":[]}],"array":[0.0,0.0],"color":"red"}'),
        ("set", 200, "application/json", b"[1]"),
        ("uuid", 200, "application/json", b'"00000000-0000-0000-0000-000000000001"'),
        ("exception", 200, "application/json", b'"as a value"'),
        ("response", 418, "text/x-tea; charset=utf-8", b"short"),
        ("json-response", 201, "application/json", b'{"a":1}'),
        ("redirect", 307, None, b""),
        ("no-content", 204, None, b""),
        ("large", 200, "text/plain", b"x" * 5_000_000),
    ],
)
def test_a_result_becomes_a_response(
    run: SalverRun, client: requests.Session, name: str, status: int, content_type: str | None, body: bytes
) -> None:
    answer = client.get(f"{run.url}{name}", allow_redirects=False, timeout=WITHIN_S)
    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (status, content_type, body)
    if status != 204:
        assert answer.headers["content-length"] == str(len(body))
    if name == "response":
        assert answer.headers["x-kind"] == "teapot"
    if name == "redirect":
        assert answer.headers["location"] == "/text"


def test_a_result_that_json_cannot_say_is_the_users_error(run: SalverRun, client: requests.Session) -> None:
    answer = client.get(f"{run.url}object", headers={"x-request-id": "unsayable"}, timeout=WITHIN_S)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    run.wait_for_output(
        r"unsayable -- GET / failed\n(.*\n)*?TypeError: cannot answer with a builtins.object: return a str"
    )


# --- streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("stream-response", "text/csv; charset=utf-8"),
        ("stream-response-of-a-thread", "text/plain; charset=utf-8"),
        ("generator", "text/plain; charset=utf-8"),
        ("async-generator", "text/plain; charset=utf-8"),
    ],
)
def test_a_stream_arrives_while_it_is_made(folder: Path, name: str, content_type: str) -> None:
    run = SalverRun.start("salver", "run", "app:app", "--port", "0", cwd=folder)
    try:
        with requests.get(f"{run.url}{name}", stream=True, timeout=WITHIN_S) as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
            assert answer.headers["transfer-encoding"] == "chunked"
            pieces = answer.iter_content(chunk_size=None)
            assert next(pieces) == b"first,"
            assert requests.post(f"{run.url}proceed", timeout=WITHIN_S).status_code == 200
            assert b"".join(pieces) == b"second"
    finally:
        run.stop()


def test_a_large_stream_arrives_whole(run: SalverRun, client: requests.Session) -> None:
    expected = b"".join(bytes([number % 256]) * 10_000 for number in range(500))
    assert client.get(f"{run.url}large-stream", timeout=WITHIN_S).content == expected


def test_a_stream_that_fails_midway_is_visibly_cut(run: SalverRun, client: requests.Session) -> None:
    with client.get(f"{run.url}broken-stream", stream=True, timeout=WITHIN_S) as answer:
        pieces = answer.iter_content(chunk_size=None)
        assert next(pieces) == b"first,"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(pieces)
    run.wait_for_output("ValueError: user code fails midway")


# --- failures, request ids ------------------------------------------------------------------------------------


def test_an_exception_is_answered_with_500_and_logged_under_the_requests_id(
    run: SalverRun, client: requests.Session
) -> None:
    answer = client.get(f"{run.url}fail", headers={"x-request-id": "my-request"}, timeout=WITHIN_S)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-request-id"] == "my-request"
    logged = run.wait_for_output(
        r"ERROR \S+ \S+ replica default#Handler#\w+ my-request -- GET / failed\n"
        r"Traceback \(most recent call last\):\n(?P<frames>(  .*\n)+)ValueError: user code fails\n"
    )
    assert "app.py" in logged["frames"]
    assert "salver" not in logged["frames"], "the user's frames only"


def test_a_request_without_an_id_gets_one(run: SalverRun, client: requests.Session) -> None:
    given = [client.get(f"{run.url}text", timeout=WITHIN_S).headers["x-request-id"] for _ in range(2)]
    assert given[0] != given[1]
    assert [str(uuid.UUID(each)) for each in given] == given


def test_the_users_log_lines_carry_the_request_id(run: SalverRun, client: requests.Session) -> None:
    client.get(f"{run.url}echo", headers={"x-request-id": "logged-id"}, timeout=WITHIN_S)
    run.wait_for_output(r"INFO \S+ \S+ replica default#Handler#\w+ logged-id -- app.py:\d+ echoing")


# --- the connection -------------------------------------------------------------------------------------------


def test_head_has_the_headers_of_get_and_no_body_and_the_connection_is_kept(run: SalverRun) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=WITHIN_S)
    try:
        connection.request("HEAD", "/list")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-length"), answer.read()) == (200, "9", b"")
        first_socket = connection.sock
        for path in ("/list", "/fail", "/text"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is first_socket, f"closed after {path}"
    finally:
        connection.close()


def test_half_a_websocket_handshake_is_refused_and_other_upgrades_are_ignored(
    run: SalverRun, client: requests.Session
) -> None:
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    refused = client.get(run.url, headers=asked, timeout=WITHIN_S)
    assert refused.status_code == 400
    assert "Sec-WebSocket-Key" in refused.text
    assert refused.headers["connection"] == "close"
    assert client.get(f"{run.url}-/healthz", headers={**asked, "Upgrade": "h2c"}, timeout=WITHIN_S).text == "success"


def test_healthz_and_routes(run: SalverRun, client: requests.Session) -> None:
    health = client.get(f"{run.url}-/healthz", timeout=WITHIN_S)
    assert (health.status_code, health.text) == (200, "success")
    assert client.get(f"{run.url}-/routes", timeout=WITHIN_S).json() == {"/": "default"}


# --- other kinds of handlers, each an application beside the first ------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("without_parameters", "no parameters"),
        ("of_function", "/of-function/deeper"),
        ("of_function_without_parameters", "no parameters"),
        ("async_generator", "ab"),
        ("sync_generator", "ab"),
    ],
)
def test_other_handlers(
    run: SalverRun, folder: Path, client: requests.Session, attribute: str, expected: str
) -> None:
    with beside(run, folder, attribute) as url:
        assert client.get(f"{url}/deeper", timeout=WITHIN_S).text == expected
        assert client.get(url, timeout=WITHIN_S).status_code == 200


def test_def_handlers_run_in_threads_with_the_requests_context(run: SalverRun, folder: Path) -> None:
    def get(request_id: str) -> object:
        return requests.get(url, headers={"x-request-id": request_id}, timeout=WITHIN_S).json()

    with beside(run, folder, "in_threads") as url, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(get, ["thread-a", "thread-b"])) == [True, True]
        for request_id in ("thread-a", "thread-b"):
            run.wait_for_output(rf"{request_id} -- app.py:\d+ met")


def test_an_ingress_without_call_says_so(run: SalverRun, folder: Path, client: requests.Session) -> None:
    with beside(run, folder, "no_call") as url:
        answer = client.get(url, timeout=WITHIN_S)
        assert answer.status_code == 500
        run.wait_for_output("MethodMissing: the ingress has no __call__ method: HTTP requests have nothing to call")


@contextmanager
def beside(run: SalverRun, folder: Path, attribute: str) -> Generator[str]:
    """While the block runs, another application of ``app.py`` in the same instance; its URL."""
    prefix = "/" + attribute.replace("_", "-")
    argv = ["--instance", run.name, "--name", attribute, "--route-prefix", prefix]
    environment = {"XDG_RUNTIME_DIR": str(run.runtime)}
    other = SalverRun.start("salver", "run", f"app:{attribute}", *argv, cwd=folder, env=environment)
    try:
        yield other.url
        other.interrupt()
        assert other.wait(WITHIN_S) == 0
    finally:
        other.stop()
