"""Two readers of the same bytes see the same requests, or one of them refuses: nothing hides in what we accept.

The other reader is h11, which has no line of code in common with our parser. It is more lenient in places (folded
headers, bare line feeds); what counts is that what both accept is the same.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import h11
from hypothesis import given

from harness.fuzzing import examples
from salver.data.http.parser import BadRequest, HTTPLimits, RequestHead, RequestParser

from .client_scene import Client, split_responses
from .http_scripts import pieces, scripts
from .scene import run

LIMITS = HTTPLimits()


class Meaning(NamedTuple):
    """A request, as far as it was read."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool


class Reading(NamedTuple):
    """What a reader made of a connection.

    Attributes:
        over: nothing that follows would be read: it was refused, or a request asked for the end.
    """

    requests: list[Meaning]
    over: bool


class Sink:
    def __init__(self) -> None:
        self.requests: list[Meaning] = []

    def head_received(self, head: RequestHead) -> None:
        self.requests.append(Meaning(head.method.encode(), head.target, head.headers, b"", complete=False))

    def body_received(self, chunk: bytes) -> None:
        self.requests[-1] = self.requests[-1]._replace(body=self.requests[-1].body + chunk)

    def request_complete(self) -> None:
        self.requests[-1] = self.requests[-1]._replace(complete=True)


def read_by_us(script: bytes) -> Reading:
    sink = Sink()
    parser = RequestParser(sink, LIMITS)
    try:
        parser.feed(script)
    except BadRequest:
        return Reading(sink.requests, over=True)
    return Reading(sink.requests, over=parser._closed)


def read_by_h11(script: bytes) -> Reading:
    requests: list[Meaning] = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(script)
    while True:
        try:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                target = origin_form(event.method, event.target)
                requests.append(Meaning(event.method, target, list(event.headers), b"", complete=False))
            elif isinstance(event, h11.Data):
                requests[-1] = requests[-1]._replace(body=requests[-1].body + bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                requests[-1] = requests[-1]._replace(complete=True)
                if requests[-1].method == b"CONNECT":  # what follows is another protocol
                    return Reading(requests, over=True)
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return Reading(requests, over=True)
                connection.start_next_cycle()
            else:
                assert event is h11.NEED_DATA, event
                return Reading(requests, over=False)
        except h11.RemoteProtocolError:
            return Reading(requests, over=True)


def read_value(name: bytes, value: bytes) -> bytes:
    """As h11 gives it: it changes the case of this one."""
    return value.lower() if name == b"transfer-encoding" else value


def origin_form(method: bytes, target: bytes) -> bytes:
    """What our parser makes of the absolute forms that the scripts have."""
    if target[:7].lower() != b"http://":
        return target
    _, slash, path = target[7:].partition(b"/")
    if not slash:
        query = b"?" + target.partition(b"?")[2] if b"?" in target else b""
        return b"*" if method == b"OPTIONS" and not query else b"/" + query
    return b"/" + path


@examples(1000)
@given(script=scripts)
def test_what_both_accept_they_read_alike(script: bytes) -> None:
    ours, theirs = read_by_us(script), read_by_h11(script)
    for mine, other in zip(ours.requests, theirs.requests, strict=False):
        assert mine[:2] == other[:2]
        assert [(name, read_value(name, value)) for name, value in mine.headers] == other.headers
        assert mine.body.startswith(other.body) or other.body.startswith(mine.body)
        if mine.complete and other.complete:
            assert mine.body == other.body
        assert mine.complete == other.complete or (theirs if mine.complete else ours).over
    if len(ours.requests) != len(theirs.requests):
        shorter = ours if len(ours.requests) < len(theirs.requests) else theirs
        assert shorter.over, "one of them saw a request that the other one waits for"


# --- the same through a connection: what reaches the application, what the client gets -------------------


async def serve(client: Client, answered: int) -> tuple[int, bytes]:
    """Answer every request that is there, every second one with a stream; how many now are, and what was sent."""
    sent = b""
    while True:
        sent += await client.received()
        if answered == len(client.requests):
            return answered, sent
        served = client.requests[answered]
        if not served.link.frames:
            served.dispatch()
            served.grant(2**31)
        if served.exchange.abandoned or not served.exchange.body.complete:
            return answered, sent
        answered += 1
        if answered % 2 or served.exchange.head.http_version == "1.0":  # there, a stream ends with the connection
            served.respond(b"answer")
        else:
            served.head()
            served.data(b"ans")
            served.data(b"wer", last=True)


def seen(client: Client, count: int) -> list[Meaning]:
    meanings: list[Meaning] = []
    for served in client.requests[:count]:
        meta, first, _ = served.link.request()
        meanings.append(
            Meaning(meta.method.encode(), meta.target, list(meta.headers), first + served.link.body(), True)
        )
    return meanings


@examples(300)
@given(feeds=pieces())
def test_a_connection_serves_what_was_read_and_answers_what_it_served(feeds: list[bytes]) -> None:
    expected = read_by_us(b"".join(feeds))

    async def test() -> None:
        client = Client()
        answered, sent = 0, b""
        for data in feeds:
            while not client.transport.reading and not over(client):
                before = answered
                answered, more = await serve(client, answered)
                sent += more
                assert answered > before or over(client), "it waits for nothing"
            if over(client):
                break
            client.send(data)
        answered, more = await serve(client, answered)
        sent += more
        served = seen(client, answered)
        assert served == [each for each in expected.requests if each.complete][:answered]
        assert answered == sum(each.complete for each in expected.requests), "all that came whole are answered"
        methods = [each.exchange.head.method for each in client.requests]
        check_answers(sent, methods, answered, refused=over(client))
        for each in client.requests[answered:]:
            assert each.exchange.abandoned or not over(client), "nothing runs for a connection that is over"
        client.hang_up()
        await asyncio.sleep(0)

    run(test())


def over(client: Client) -> bool:
    return client.transport.closing or client.transport.eof_written


def check_answers(sent: bytes, methods: list[str], answered: int, *, refused: bool) -> None:
    """One answer for each request that came whole, in step, and at most a refusal after them."""
    sent = sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    answers = split_responses(sent, *methods)
    assert answered <= len(answers) <= answered + refused
    for method, answer in zip(methods, answers[:answered], strict=False):
        assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"answer")
    for answer in answers[answered:]:
        assert answer.status >= 400
        assert answer.headers["connection"] == "close"
