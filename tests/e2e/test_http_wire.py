"""The HTTP edge of a real instance, byte by byte: what is refused reaches nobody; what is odd but right is served."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from harness.bad_requests import BAD_CHUNKS, BAD_HEADS, CHUNKED
from harness.instance import SalverRun
from harness.waiting import eventually
from harness.wire import Answer, Wire

APP = '''
import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from salver import serve

log = logging.getLogger("ray.serve")

@serve.deployment(max_ongoing_requests=20)
class Desk:
    """Counts the requests that came, and those whose body came to its end."""

    def __init__(self):
        self.begun = self.whole = self.left = 0

    async def __call__(self, request):
        path = request.url.path
        if path == "/-count":
            return [self.begun, self.whole, self.left]
        self.begun += 1
        if path == "/unread":
            return "not read"
        try:
            body = await request.body()
        except (ClientDisconnect, asyncio.CancelledError):  # whichever comes first
            self.left += 1
            raise
        self.whole += 1
        if path.startswith("/log"):
            log.warning("asked for %s", path)
        if path == "/stream":
            return StreamingResponse(iter(["one", "two"]), media_type="text/plain")
        return {
            "method": request.method,
            "path": path,
            "raw_path": request.scope["raw_path"].decode("latin-1"),
            "query": request.scope["query_string"].decode("latin-1"),
            "version": request.scope["http_version"],
            "headers": [[name, value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
        }

app = Desk.bind()
'''


@pytest.fixture(scope="module")
def run(module_run: Callable[..., SalverRun]) -> SalverRun:
    return module_run("app:app", files={"app.py": APP})


def counts(run: SalverRun) -> list[int]:
    """Requests that user code got, that it got whole, and that ended before their body, by a new connection."""
    with Wire(run.port) as wire:
        return json.loads(wire.send(b"GET /-count HTTP/1.1\r\nHost: a\r\n\r\n").answer().body)


def echo(wire: Wire, method: bytes = b"GET") -> dict[str, object]:
    """What user code saw of the request that is answered next."""
    answer = wire.answer(method)
    assert answer.status == 200, answer
    return json.loads(answer.body)


# --- what must be refused ------------------------------------------------------------------------------


def assert_refused(wire: Wire, status: int) -> Answer:
    answer = wire.answer()
    assert (answer.status, answer.closes) == (status, True), answer
    assert answer.values(b"content-type") == [b"text/plain; charset=utf-8"]
    assert answer.body.endswith(b"\n")
    assert wire.rest() == b"", "one answer, and the end of the connection"
    return answer


@pytest.mark.parametrize(("data", "status"), BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_refused_and_reaches_nobody(run: SalverRun, data: bytes, status: int) -> None:
    before = counts(run)
    with Wire(run.port) as wire:
        assert_refused(wire.send(data), status)
    with Wire(run.port) as wire:  # behind a good one, whose answer it does not spoil
        echo(wire.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert_refused(wire.send(data), status)
    assert counts(run) == [before[0] + 1, before[1] + 1, before[2]]


@pytest.mark.parametrize(("data", "status"), BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_a_bad_body_never_ends_for_user_code(run: SalverRun, data: bytes, status: int) -> None:
    """Chunks are passed on while they come, so the request has begun by then: it ends as if its client had left."""
    begun, whole, _ = counts(run)
    with Wire(run.port) as wire:
        assert_refused(wire.send(CHUNKED + data), status)
    after = eventually("what began has ended", lambda: (c := counts(run))[0] == c[1] + c[2] and c)
    assert after[0] - begun in (0, 1)
    assert after[1] == whole


SPLIT = {
    name: BAD_HEADS[name]
    for name in (
        "length and chunked",
        "two lengths, different",
        "chunked in HTTP/1.0 (A)",
        "obs-fold",
        "bare LF after header",
        "two Hosts (A)",
        "absolute-form, other host (A)",
        "HTTP/2.0 (A)",
    )
}


@pytest.mark.parametrize(("data", "status"), SPLIT.values(), ids=SPLIT)
def test_wherever_the_network_cuts_a_bad_request(run: SalverRun, data: bytes, status: int) -> None:
    before = counts(run)
    for cut in range(1, len(data)):
        with Wire(run.port) as wire:
            assert_refused(wire.send(data[:cut], data[cut:]), status)
    with Wire(run.port) as wire:
        assert_refused(wire.send(*(data[at : at + 1] for at in range(len(data)))), status)
    assert counts(run) == before


def test_a_body_over_the_limit_is_refused_before_it_is_read(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108865\r\nExpect: 100-continue\r\n\r\n")
        assert_refused(wire, 413)


def test_nothing_follows_a_refusal(run: SalverRun) -> None:
    """What comes behind it may be a part of it: it is not read as a request."""
    before = counts(run)
    good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
    with Wire(run.port) as wire:
        assert_refused(wire.send(b"GET / HTTP/1.1\r\n\r\n" + good, good, good), 400)
    assert counts(run) == before


# --- problem documents ---------------------------------------------------------------------------------

JSON = b"Accept: application/problem+json\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\n" + JSON + b"Content-Length: 67108865\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\n" + JSON + b"Host: a\r\nExpect: x\r\nContent-Length: 1\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\n" + JSON + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n" + JSON + b"\r\n", 501),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n" + JSON + b"\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + JSON + b"\r\nx\r\n", 400),
    ],
)
def test_a_refusal_is_a_problem_document_to_those_who_accept_it(run: SalverRun, data: bytes, status: int) -> None:
    with Wire(run.port) as wire:
        answer = wire.send(data).answer()
        assert wire.rest() == b""
    assert (answer.status, answer.closes) == (status, True)
    assert answer.values(b"content-type") == [b"application/problem+json"]
    document = json.loads(answer.body)
    assert (document["type"], document["status"]) == ("urn:salver:problem:bad-request", status)
    assert document["title"]
    assert document["detail"]


def test_a_refused_body_is_answered_under_the_requests_id(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        answer = wire.send(CHUNKED[:-2] + b"X-Request-Id: mine\r\n" + JSON + b"\r\nx\r\n").answer()
    assert answer.values(b"x-request-id") == [b"mine"]
    assert json.loads(answer.body)["request_id"] == "mine"


# --- what is odd, and right ----------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(run: SalverRun) -> None:
    script = b"".join(
        [
            b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
            b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\n",
            b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\n",
            b"GET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
        ]
    )
    for pieces in ([script], *([script[:cut], script[cut:]] for cut in range(1, len(script), 7))):
        with Wire(run.port) as wire:
            wire.send(*pieces)
            assert echo(wire)["path"] == "/1"
            assert wire.answer().body == b"onetwo"
            assert wire.answer(b"HEAD").values(b"transfer-encoding") == [b"chunked"]
            assert wire.answer().body == b"success"
            second = echo(wire)
            assert (second["path"], second["body"]) == ("/2", "hello")
            third = echo(wire)
            assert (third["path"], third["body"]) == ("/3", "abc")
            last = wire.answer()
            assert (json.loads(last.body)["path"], last.closes) == ("/4", True)
            assert wire.rest() == b""


def test_many_pipelined_requests(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(100)))
        assert [echo(wire)["path"] for _ in range(100)] == [f"/{number}" for number in range(100)]


EXPECTS = b"POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"


@pytest.mark.parametrize("size", [5, 100_000])
def test_expect_continue(run: SalverRun, size: int) -> None:
    with Wire(run.port) as wire:
        for _ in range(2):
            interim = wire.send(EXPECTS + b"Content-Length: %d\r\n\r\n" % size).answer()
            assert (interim.status, interim.headers) == (100, [])
            wire.send(b"x" * size)
            assert echo(wire)["body"] == "x" * size


def test_expect_continue_of_a_client_that_does_not_wait(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        wire.send(EXPECTS + b"Content-Length: 5\r\n\r\n", b"hello", EXPECTS + b"Content-Length: 2\r\n\r\nok")
        assert [wire.answer().status, echo(wire)["body"]] == [100, "hello"]
        second = wire.answer()
        if second.status == 100:  # not owed to a body that is here already, and harmless
            second = wire.answer()
        assert json.loads(second.body)["body"] == "ok"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"], ids=["length", "chunked"]
)
def test_an_answer_before_the_body_that_was_expected(run: SalverRun, framing: bytes) -> None:
    with Wire(run.port) as wire:
        wire.send(EXPECTS.replace(b"/up", b"/unread") + framing)
        assert wire.answer().status == 100
        answer = wire.answer()
        assert (answer.status, answer.body, answer.closes) == (200, b"not read", True)
        assert wire.rest() == b""


def test_expectations_that_nobody_waits_for(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        wire.send(EXPECTS.replace(b"POST", b"GET") + b"\r\n")
        assert echo(wire)["method"] == "GET", "there is no body to wait for"
        wire.send(EXPECTS.replace(b"1.1", b"1.0") + b"Content-Length: 2\r\n\r\nok")
        assert echo(wire)["body"] == "ok", "HTTP/1.0 does not know interim answers"


@pytest.mark.parametrize("path", [b"/", b"/stream", b"/-/healthz"])
def test_head_is_get_without_the_body(run: SalverRun, path: bytes) -> None:
    with Wire(run.port) as wire:
        get = wire.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path).answer()
        head = wire.send(b"HEAD %s HTTP/1.1\r\nHost: a\r\n\r\n" % path).answer(b"HEAD")
        assert head.status == get.status
        assert head.values(b"content-type") == get.values(b"content-type")
        assert head.values(b"transfer-encoding") == get.values(b"transfer-encoding")
        if path == b"/":  # its body names the method
            assert int(head.values(b"content-length")[0]) == len(get.body) + len("HEAD") - len("GET")
        else:
            assert head.values(b"content-length") == get.values(b"content-length")
        assert echo(wire.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"))["path"] == "/next"


def test_http_1_0(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        answer = wire.send(b"GET / HTTP/1.0\r\n\r\nGET /never HTTP/1.0\r\n\r\n").answer()
        assert (json.loads(answer.body)["version"], answer.closes) == ("1.0", True)
        assert wire.rest() == b""
    with Wire(run.port) as wire:
        for _ in range(3):
            answer = wire.send(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").answer()
            assert (answer.status, answer.values(b"connection")) == (200, [b"keep-alive"])
        answer = wire.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
        assert (answer.body, answer.closes, answer.values(b"transfer-encoding")) == (b"onetwo", True, [])


def test_targets(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        seen = echo(wire.send(b"GET http://A:80/b%2Fc?d=%20&e HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert (seen["raw_path"], seen["query"]) == ("/b%2Fc", "d=%20&e")
        for target in (b"*", b"http://a"):
            answer = wire.send(b"OPTIONS %s HTTP/1.1\r\nHost: a\r\n\r\n" % target).answer()
            assert answer.status < 500
            assert not answer.closes
        seen = echo(wire.send(b"OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert (seen["method"], seen["path"]) == ("OPTIONS", "/x")
        assert echo(wire.send(b"GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n"))["raw_path"] == "//b/c"


def test_an_upgrade_to_something_unknown_is_ignored(run: SalverRun) -> None:
    """The bytes behind it are its body and the next request, not the other protocol."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    with Wire(run.port) as wire:
        wire.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABk\r\nContent-Length: %d\r\n\r\n%s" % (len(hidden), hidden),
            b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        assert echo(wire)["body"] == hidden.decode()
        assert echo(wire)["path"] == "/next"


def test_nothing_is_begun_behind_an_answer_that_ends_the_connection(run: SalverRun) -> None:
    """The answer came before its request did. What came in the same packet as the rest is not another request."""
    before = counts(run)
    upload = b"POST /-/nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000)
    good = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
    with Wire(run.port) as wire:
        wire.send(upload.replace(b"/-/nowhere", b"/-/healthz") + good)
        answer = wire.answer()
        assert (answer.status, answer.closes) == (200, True)
        assert wire.rest() == b""
    assert counts(run) == before


def test_what_users_log_of_a_request_cannot_steer_a_terminal(run: SalverRun) -> None:
    with Wire(run.port) as wire:
        echo(wire.send(b"GET /log%1b%5b2J%07%c2%9b31m%7f%00. HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert wire.send(b"GET /log HTTP/1.1\r\nHost: a\r\nX-Request-Id: \x1b[2J\r\n\r\n").answer().status == 400
    run.wait_for_output(r"asked for /log\\x1b\[2J\\x07\\x9b31m\\x7f\\x00\.\n")
    assert "\x1b" not in run.output()
