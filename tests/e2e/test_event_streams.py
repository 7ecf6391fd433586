"""Server-sent events that break: the client is told by a last event, and never gets half of one for a whole one."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable, Generator
from urllib.parse import quote

import pytest

from harness.instance import SalverRun
from harness.waiting import eventually

WITHIN_S = 30.0

SOURCE = """
import asyncio, os
from starlette.requests import Request
from starlette.responses import StreamingResponse
from salver import serve

@serve.deployment
class Events:
    async def __call__(self, request: Request):
        last = request.query_params["last"].encode().decode("unicode_escape")
        async def events():
            yield f"data: {os.getpid()}\\n\\n"
            yield last
            if "stays" in request.query_params:
                await asyncio.sleep(600)
            raise RuntimeError("on purpose")
        headers = {"content-length": "1000"} if "length" in request.query_params else {}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

app = Events.bind()
"""


@pytest.fixture(scope="module")
def run(module_run: Callable[..., SalverRun]) -> SalverRun:
    return module_run("events:app", files={"events.py": SOURCE})


@pytest.fixture
def connection(run: SalverRun) -> Generator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", run.port, timeout=WITHIN_S)
    yield client
    client.close()


def broken(connection: http.client.HTTPConnection, query: str) -> bytes:
    """What came after the first event, of a stream that was cut."""
    connection.request("GET", f"/?{query}")
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline().startswith(b"data: ")
    assert answer.readline() == b"\n"
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.read()
    return cut.value.partial


@pytest.mark.parametrize("last", [r"data: x\n\n", r"id: 1\r\ndata: x\r\n\r\n", r"data: x\r\r"])
def test_the_last_event_says_what_broke(connection: http.client.HTTPConnection, last: str) -> None:
    received = broken(connection, f"last={quote(last)}")
    sent = last.encode().decode("unicode_escape").encode()
    assert received.startswith(sent)
    name, data, *rest = received.removeprefix(sent).split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    told = json.loads(data.removeprefix(b"data: "))
    assert told["type"] == "urn:salver:problem:application-error"
    assert len(told["request_id"]) == 36


@pytest.mark.parametrize("last", [r"data: x", r"data: x\n", r"id: 7\n", r"data: x\r\n"])
def test_half_an_event_stays_half(connection: http.client.HTTPConnection, last: str) -> None:
    """More would complete it: the client would take it, and its id, for one of the application's."""
    assert broken(connection, f"last={quote(last)}") == last.encode().decode("unicode_escape").encode()


def test_nothing_is_added_to_a_declared_length(connection: http.client.HTTPConnection) -> None:
    assert broken(connection, r"length&last=data:%20x\n\n") == b"data: x\n\n"


def test_a_dead_replica_is_told_too(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("events:app", "--port", "0", files={"events.py": SOURCE})
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=WITHIN_S)
    connection.request("GET", r"/?stays&last=data:%20x\n\n")
    answer = connection.getresponse()
    pid = int(answer.readline().removeprefix(b"data: "))
    assert [answer.readline() for _ in range(3)] == [b"\n", b"data: x\n", b"\n"]
    os.kill(pid, signal.SIGKILL)
    assert answer.readline() == b"event: error\n"
    assert b"urn:salver:problem:replica-died" in answer.readline()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    eventually("the replica is gone", lambda: not os.path.exists(f"/proc/{pid}/fd/0"), WITHIN_S)
    connection.close()
