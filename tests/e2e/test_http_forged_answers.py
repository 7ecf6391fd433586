"""User code that copies what a client sent into its answer: no header, name or status can forge another answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.instance import SalverRun
from harness.wire import Wire

APP = '''
from starlette.responses import RedirectResponse, Response, StreamingResponse

from salver import serve

FORGED = "x\\r\\nx-injected: 1\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n"

class Raw(Response):
    """Sends exactly this: no check of Starlette's stands between."""

    def __init__(self, *headers, status=200):
        super().__init__()
        self.start = {"type": "http.response.start", "status": status, "headers": list(headers)}

    async def __call__(self, scope, receive, send):
        await send(self.start)
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await send({"type": "http.response.body", "body": b"rest"})

class Odd(int):
    def __str__(self):
        return FORGED
    __repr__ = __str__
    def __format__(self, how):
        return FORGED

ANSWERS = {
    "crlf": lambda: Response("x", headers={"x-a": FORGED}),
    "lf": lambda: Response("x", headers={"x-a": "x\\nx-injected: 1"}),
    "cr": lambda: Response("x", headers={"x-a": "x\\rx-injected: 1"}),
    "nul": lambda: Response("x", headers={"x-a": "x\\0"}),
    "escape": lambda: Response("x", headers={"x-a": "\\x1b[2J"}),
    "name": lambda: Response("x", headers={FORGED: "x"}),
    "name-with-space": lambda: Response("x", headers={"x injected": "x"}),
    "empty-name": lambda: Response("x", headers={"": "x"}),
    "type": lambda: Response("x", media_type="text/plain\\r\\nx-injected: 1"),
    "length": lambda: Response("x", headers={"content-length": "1\\r\\nx-injected: 1"}),
    "two-lengths": lambda: Raw((b"content-length", b"8"), (b"content-length", b"9")),
    "raw-value": lambda: Raw((b"x-a", FORGED.encode())),
    "raw-name": lambda: Raw((FORGED.encode(), b"x")),
    "raw-types": lambda: Raw(("x-a", "x")),
    "streamed": lambda: StreamingResponse(iter(["x"]), headers={"x-a": FORGED}),
    "interim": lambda: Response("x", status_code=101),
    "no-status": lambda: Response("x", status_code=1000),
    "status-text": lambda: Raw(status="200 OK\\r\\nx-injected: 1"),
}
FINE = {
    "odd-status": lambda: Response("fine", status_code=Odd(200)),
    "cookie": lambda: cookie("a", FORGED),
    "redirect": lambda: RedirectResponse("/" + FORGED, status_code=302),
    "framing": lambda: Raw((b"transfer-encoding", b"gzip"), (b"connection", b"close"), (b"upgrade", b"h2c")),
    "own-names": lambda: Response("fine", headers={"Date": "today", "X-Request-ID": "own"}),
}
ANSWERS |= FINE

def cookie(name, value):
    response = Response("fine")
    response.set_cookie(name, value)
    return response

@serve.deployment
async def answer(request):
    return ANSWERS[request.url.path.removeprefix("/")]()

app = answer.bind()
'''


@pytest.fixture(scope="module")
def run(module_run: Callable[..., SalverRun]) -> SalverRun:
    return module_run("app:app", files={"app.py": APP})


FORGERIES = [
    "crlf",
    "lf",
    "cr",
    "nul",
    "escape",
    "name",
    "name-with-space",
    "empty-name",
    "type",
    "length",
    "two-lengths",
    "raw-value",
    "raw-name",
    "raw-types",
    "streamed",
    "interim",
    "no-status",
    "status-text",
]


@pytest.mark.parametrize("name", FORGERIES)
def test_an_answer_that_could_forge_another_is_500(run: SalverRun, name: str) -> None:
    with Wire(run.port) as wire:
        answer = wire.send(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()).answer()
        assert (answer.status, answer.body) == (500, b"Internal Server Error")
        assert {each for each, _ in answer.headers} == {b"content-type", b"content-length", b"date", b"x-request-id"}
        assert wire.send(b"GET /cookie HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"fine", (
            "the connection is in step"
        )


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("odd-status", 200, b"fine"),
        ("cookie", 200, b"fine"),
        ("redirect", 302, b""),
        ("framing", 200, b"partrest"),
        ("own-names", 200, b"fine"),
    ],
)
def test_odd_answers_that_forge_nothing(run: SalverRun, name: str, status: int, body: bytes) -> None:
    with Wire(run.port) as wire:
        answer = wire.send(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()).answer()
        assert (answer.status, answer.body, answer.values(b"x-injected")) == (status, body, [])
        assert len(answer.values(b"date")) == len(answer.values(b"x-request-id")) == 1
        assert answer.values(b"connection") == answer.values(b"upgrade") == []
        assert wire.send(b"GET /cookie HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"fine", (
            "the connection is in step"
        )
