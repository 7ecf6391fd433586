"""The proxy's side of an HTTP connection: what a client gets, whatever it, the replica and the network do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http.client import IncompleteRead

import pytest

from salver.data.http.exchange import INLINE_BODY_BYTES
from salver.data.http.limits import HTTPLimits
from salver.errors import BackPressureError, DeploymentUnavailableError
from salver.wire.frames import END, Kind

from .client_scene import DATE, Client, Served, request_bytes, split_responses
from .scene import run

LARGE = bytes(range(256)) * 4096  # 1 MiB: streamed, and more than any window


def is_over(client: Client) -> bool:
    """The client can expect no more: closed, or our side ended and what still comes is discarded."""
    return client.transport.closing or client.transport.eof_written


# --- whole responses ------------------------------------------------------------------------------------


def test_a_request_and_its_response() -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"POST", b"/path?q=1", b"content-length: 4", b"X-Request-ID: mine", body=b"body"))
        [served] = client.requests
        meta, body, complete = served.dispatch().request()
        assert (meta.method, meta.target, body, complete) == ("POST", b"/path?q=1", b"body", True)
        assert (meta.app, meta.root_path, meta.scheme, meta.request_id) == ("app", "/root", "http", "mine")
        assert (meta.client, meta.server) == (("10.0.0.1", 5000), ("10.0.0.2", 80))
        assert (b"host", b"h") in meta.headers
        served.respond(b"answer", 201, b"x: y\r\n")
        assert await client.received() == (
            b"HTTP/1.1 201 Created\r\nx: y\r\ncontent-length: 6\r\n" + DATE + b"x-request-id: mine\r\n\r\nanswer"
        )
        assert not is_over(client)

    run(test())


@pytest.mark.parametrize("id_header", [b"x-request-id: a b", b"x-request-id: " + b"x" * 200, b"x: y"])
def test_a_request_id_is_made_up_unless_the_clients_is_good(id_header: bytes) -> None:
    async def test() -> None:
        client = Client()
        client.get(b"/", id_header)
        client.requests[0].dispatch()
        client.requests[0].respond()
        response = await client.response()
        assert len(response.headers["x-request-id"]) == 36

    run(test())


def test_an_applications_own_request_id_is_not_doubled() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        client.requests[0].dispatch()
        client.requests[0].respond(b"", 200, b"x-request-id: own\r\n")
        assert (await client.received()).count(b"x-request-id") == 1

    run(test())


@pytest.mark.parametrize(
    ("method", "status", "body", "declared", "length"),
    [
        (b"HEAD", 200, b"body", -1, "4"),
        (b"HEAD", 200, b"", 1234, "1234"),
        (b"GET", 204, b"", -1, None),
        (b"GET", 204, b"not allowed", -1, None),
        (b"GET", 304, b"not allowed", 11, None),
        (b"GET", 200, b"", -1, "0"),
        (b"GET", 200, b"body", 99, "4"),
    ],
)
def test_the_framing_of_whole_responses(
    method: bytes, status: int, body: bytes, declared: int, length: str | None
) -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(method, b"/"))
        client.requests[0].dispatch()
        client.requests[0].respond(body, status, b"", declared)
        client.get()
        client.requests[1].dispatch()
        client.requests[1].respond(b"next")
        first, second = split_responses(await client.received(), method.decode())
        assert (first.status, first.headers.get("content-length")) == (status, length)
        assert first.body == (body if method == b"GET" and status == 200 else b"")
        assert "transfer-encoding" not in first.headers
        assert second.body == b"next", "the framing of the first was right"

    run(test())


# --- streamed responses ---------------------------------------------------------------------------------


def test_a_streamed_response_is_chunked() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head(200, b"content-type: text/plain\r\n")
        first = await client.received()
        assert first.endswith(b"\r\n\r\n"), "the head does not wait for the body"
        served.data(b"one")
        second = await client.received()
        assert second == b"3\r\none\r\n"
        served.data(b"")
        served.data(b"x" * 300)
        served.data(b"end", last=True)
        rest = await client.received()
        [response] = split_responses(first + second + rest)
        assert response.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in response.headers
        assert response.body == b"one" + b"x" * 300 + b"end"
        assert not is_over(client)

    run(test())


def test_a_streamed_response_of_declared_length_is_not_chunked() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head(declared=6)
        served.data(b"one")
        served.data(b"two", last=True)
        response = await client.response()
        assert response.headers["content-length"] == "6"
        assert "transfer-encoding" not in response.headers
        assert response.body == b"onetwo"
        assert not is_over(client)

    run(test())


@pytest.mark.parametrize(("pieces", "sent"), [([b"longer than declared"], b""), ([b"short"], b"short")])
def test_a_stream_that_is_not_as_long_as_declared_cuts_the_connection(pieces: list[bytes], sent: bytes) -> None:
    """What follows on the connection would be taken for part of this response, or the other way round."""

    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head(declared=10)
        for piece in pieces:
            served.data(piece)
        if not is_over(client):
            served.data(b"", last=True)
        head, _, body = (await client.received()).partition(b"\r\n\r\n")
        assert b"content-length: 10" in head
        assert body == sent
        assert is_over(client)

    run(test())


@pytest.mark.parametrize(("version", "headers"), [(b"1.0", ()), (b"1.0", (b"connection: keep-alive",))])
def test_http_1_0_gets_a_stream_that_ends_with_the_connection(version: bytes, headers: tuple[bytes, ...]) -> None:
    async def test() -> None:
        client = Client()
        client.get(b"/", *headers, version=version)
        [served] = client.requests
        assert served.dispatch().request()[0].http_version == "1.0"
        served.head()
        served.data(b"one")
        served.data(b"two", last=True)
        data = await client.received()
        assert data.endswith(b"\r\n\r\nonetwo")
        assert b"connection: close\r\n" in data
        assert b"chunked" not in data
        assert is_over(client)

    run(test())


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304), (b"HEAD", 204)])
def test_streams_that_may_have_no_body_have_none(method: bytes, status: int) -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(method, b"/"))
        [served] = client.requests
        served.dispatch()
        served.head(status)
        served.data(b"must not be seen")
        served.data(b"neither", last=True)
        client.get()
        client.requests[1].dispatch()
        client.requests[1].respond(b"next")
        first, second = split_responses(await client.received(), method.decode())
        assert (first.status, first.body) == (status, b"")
        assert second.body == b"next"

    run(test())


def test_an_error_in_the_middle_cuts_the_stream() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head()
        served.data(b"part")
        served.error()
        data = await client.received()
        assert data.endswith(b"4\r\npart\r\n"), "what was sent arrives, without the last chunk"
        with pytest.raises(IncompleteRead):
            split_responses(data)
        assert is_over(client)

    run(test())


def test_a_replica_lost_in_the_middle_cuts_the_stream() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head()
        served.exchange.replica_lost("app#d#1")
        assert not (await client.received()).endswith(b"\r\n0\r\n\r\n")
        assert is_over(client)

    run(test())


def test_errors_before_the_response_are_answers() -> None:
    async def test() -> None:
        cases: list[tuple[Callable[[Served], None], int]] = [
            (lambda served: served.error(), 500),
            (lambda served: served.exchange.replica_lost("app#d#1"), 502),
            (lambda served: served.exchange.refused(DeploymentUnavailableError("app#d", "It was deleted.")), 503),
            (lambda served: served.exchange.refused(BackPressureError(5, 5)), 503),
            (lambda served: served.exchange.refused(BackPressureError(5, 5, status_code=429)), 429),
        ]
        client = Client()
        for number, (fail, status) in enumerate(cases):
            client.get()
            served = client.requests[number]
            if status in {500, 502}:
                served.dispatch()
            fail(served)
            response = await client.response()
            assert response.status == status
            assert ("retry-after" in response.headers) == (status == 503)
            assert "x-request-id" in response.headers
            assert not is_over(client)

    run(test())


# --- order and keep-alive -------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order() -> None:
    async def test() -> None:
        client = Client()
        client.send(b"".join(request_bytes(b"GET", b"/%d" % number) for number in range(5)))
        data = b""
        for number in range(5):
            assert len(client.requests) == number + 1, "one at a time"
            served = client.requests[number]
            meta, _, _ = served.dispatch().request()
            assert meta.target == b"/%d" % number
            if number % 2:
                served.head()
                served.data(b"%d" % number, last=True)
            else:
                served.respond(b"%d" % number)
            data += await client.received()
        assert [response.body for response in split_responses(data)] == [b"0", b"1", b"2", b"3", b"4"]
        assert client.transport.reading
        assert not is_over(client)

    run(test())


def test_reading_pauses_while_a_pipelined_request_waits() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        assert client.transport.reading
        client.get()
        assert not client.transport.reading
        client.requests[0].respond()
        await client.received()
        assert client.transport.reading

    run(test())


def test_many_pipelined_requests_that_are_answered_at_once() -> None:
    async def test() -> None:
        client = Client()
        client.answer_at_once = b"ok"
        client.send(request_bytes(b"GET", b"/") * 100)
        data = b""
        while len(client.requests) < 100:
            data += await client.received()
        data += await client.received()
        assert [response.body for response in split_responses(data)] == [b"ok"] * 100

    run(test())


def test_there_is_a_limit_to_pipelining() -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"GET", b"/") * 200)
        await client.received()
        assert is_over(client)
        assert len(client.requests) == 1
        assert client.requests[0].exchange.abandoned

    run(test())


def test_a_pipelined_post_keeps_its_body() -> None:
    async def test() -> None:
        client = Client()
        post = request_bytes(b"POST", b"/", b"content-length: 5", body=b"hello")
        client.send(request_bytes(b"GET", b"/") + post[:-3])
        client.requests[0].dispatch()
        client.requests[0].respond()
        await client.received()
        assert len(client.requests) == 1
        client.send(post[-3:])
        assert client.requests[1].dispatch().request()[1:] == (b"hello", True)

    run(test())


@pytest.mark.parametrize(
    ("version", "headers", "kept"),
    [
        (b"1.1", (), True),
        (b"1.1", (b"connection: close",), False),
        (b"1.0", (), False),
        (b"1.0", (b"connection: keep-alive",), True),
    ],
)
def test_keep_alive_follows_the_client(version: bytes, headers: tuple[bytes, ...], kept: bool) -> None:
    async def test() -> None:
        client = Client()
        client.get(b"/", *headers, version=version)
        client.requests[0].dispatch()
        client.requests[0].respond(b"x")
        response = await client.response()
        expected = ("keep-alive" if version == b"1.0" else None) if kept else "close"
        assert response.headers.get("connection") == expected
        assert is_over(client) is not kept

    run(test())


def test_a_connection_carries_so_many_requests() -> None:
    async def test() -> None:
        client = Client(HTTPLimits(keep_alive_requests=3))
        for number in range(3):
            client.get()
            client.requests[number].dispatch()
            if number == 2:
                client.requests[number].head()
                client.requests[number].data(b"", last=True)
            else:
                client.requests[number].respond()
            response = await client.response()
            assert ("connection" in response.headers) == (number == 2)
        assert is_over(client)

    run(test())


def test_a_draining_proxy_closes_after_the_answer_and_idle_connections_at_once() -> None:
    async def test() -> None:
        busy, idle, half, new = Client(), Client(), Client(), Client()
        busy.get()
        idle.get()
        idle.requests[0].dispatch()
        idle.requests[0].respond()
        await idle.response()
        half.send(b"GET / HT")
        for client in (busy, idle, half, new):
            client.draining = True
            client.connection.close_if_idle()
        assert [is_over(client) for client in (busy, idle, half, new)] == [False, True, False, False]
        busy.requests[0].dispatch()
        busy.requests[0].respond(b"last")
        assert (await busy.response()).headers["connection"] == "close"
        assert is_over(busy)

    run(test())


# --- the client leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["queued", "dispatched", "streaming", "uploading"])
def test_a_client_that_leaves_cancels_its_request(when: str) -> None:
    async def test() -> None:
        client = Client()
        if when == "uploading":
            client.send(request_bytes(b"POST", b"/", b"content-length: 1000000", body=b"x" * 1000))
        else:
            client.get()
        [served] = client.requests
        if when != "queued":
            served.dispatch()
        if when == "streaming":
            served.head()
        client.hang_up()
        await client.received()
        assert served.exchange.abandoned
        assert served.link.cancelled == ([] if when == "queued" else [served.stream])
        assert (client.opened, client.closed) == (1, 1)
        served.exchange.refused(DeploymentUnavailableError("app#d"))  # too late: nobody to tell

    run(test())


def test_pipelined_requests_of_a_client_that_left_are_never_begun() -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"GET", b"/") * 3)
        client.requests[0].dispatch()
        client.hang_up()
        await client.received()
        assert len(client.requests) == 1
        assert client.requests[0].link.cancelled == [1]

    run(test())


def test_a_client_that_stops_sending_has_left() -> None:
    async def test() -> None:
        assert Client().connection.eof_received() is False

    run(test())


# --- slow readers ---------------------------------------------------------------------------------------


def test_credit_is_granted_as_the_client_reads() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        [served] = client.requests
        link = served.dispatch()
        served.head()
        served.data(b"x" * 1000)
        assert link.credit() == 1000
        await client.received()
        client.transport.client_reads = False
        served.data(b"x" * 65536)
        served.data(b"x" * 10000)
        await client.received()
        granted = link.credit()
        assert granted <= 1000 + 65536 + 10000
        served.data(b"x" * 30000)
        served.data(b"x" * 30000)
        await client.received()
        assert link.credit() == granted, "the client does not read: no more"
        client.transport.catch_up()
        assert link.credit() == 1000 + 65536 + 10000 + 60000
        served.data(b"x" * 10)
        assert link.credit() == 1000 + 65536 + 10000 + 60010

    run(test())


def test_a_stalled_reader_of_a_stream_is_cut_off_in_time() -> None:
    async def test() -> None:
        client = Client(HTTPLimits(body_idle_timeout_s=30))
        client.transport.client_reads = False
        client.get()
        [served] = client.requests
        served.dispatch()
        served.head()
        served.data(b"x" * 100_000)
        await client.received()
        assert in_seconds(client) == pytest.approx(30, abs=5)
        client.connection.timed_out()
        await client.received()
        assert client.transport.lost, "what it does not read must not keep the connection open"
        assert served.link.cancelled == [served.stream]

    run(test())


def test_a_slow_reader_that_reads_at_all_is_given_more_time() -> None:
    async def test() -> None:
        client = Client()
        client.transport.client_reads = False
        client.get()
        client.requests[0].dispatch()
        client.requests[0].respond(b"x" * 1_000_000)
        client.transport._unsent -= 100_000
        client.connection.timed_out()
        assert not is_over(client)
        assert 0 < in_seconds(client) <= 30
        client.connection.timed_out()
        await client.received()
        assert client.transport.lost

    run(test())


def test_a_reader_that_caught_up_has_the_usual_time_for_its_next_request() -> None:
    async def test() -> None:
        client = Client()
        client.transport.client_reads = False
        client.get()
        client.requests[0].dispatch()
        client.requests[0].respond(b"x" * 1_000_000)
        client.transport.catch_up()
        assert in_seconds(client) == pytest.approx(HTTPLimits().keep_alive_timeout_s, abs=5)

    run(test())


# --- uploads --------------------------------------------------------------------------------------------


def upload(*, chunked: bool) -> bytes:
    if chunked:
        return request_bytes(
            b"POST", b"/", b"transfer-encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(LARGE), LARGE)
        )
    return request_bytes(b"POST", b"/", b"content-length: %d" % len(LARGE), body=LARGE)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_the_connection_is_read_on_after_an_upload_that_arrived_at_once(chunked: bool, read: bool) -> None:
    """Its end came while reading was paused for the replica, which reads it, or answers without reading it."""

    async def test() -> None:
        client = Client()
        client.send(upload(chunked=chunked))
        [served] = client.requests
        link = served.dispatch()
        assert not client.transport.reading
        if read:
            served.grant(2 * len(LARGE))
            bodies = [frame for frame in link.frames if frame.kind == Kind.BODY]
            assert b"".join(frame.payload for frame in bodies) == LARGE
            assert [frame.flags & END for frame in bodies] == [0] * (len(bodies) - 1) + [END]
            assert client.transport.reading
        served.respond()
        assert (await client.response()).status == 200
        assert client.transport.reading, "the next request would never be read"
        client.get()
        assert len(client.requests) == 2

    run(test())


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_streams_under_credit(chunked: bool) -> None:
    data = upload(chunked=chunked)

    async def test() -> None:
        client = Client()
        position = 0

        def feed() -> None:
            nonlocal position
            while client.transport.reading and position < len(data):
                client.send(data[position : position + 65536])
                position += 65536

        feed()
        [served] = client.requests
        assert not client.transport.reading, "read ahead has a bound"
        assert position <= 6 * 65536
        link = served.dispatch()
        _meta, first, complete = link.request()
        assert (first, complete) == (b"", False)
        await client.received()
        assert link.body() == b"", "nothing leaves before the replica has taken the request"
        served.grant(256 * 1024)
        granted = 256 * 1024
        while not link.body_ended:
            feed()
            read = len(link.body())
            assert read <= granted + 65536 * 2, "as much as was granted, and at most the piece under way"
            served.grant(65536)
            granted += 65536
        assert link.body() == LARGE
        assert client.transport.reading
        served.respond(b"done")
        assert (await client.response()).body == b"done"
        assert not is_over(client)

    run(test())


def test_a_request_that_was_busy_starts_again_from_its_first_byte() -> None:
    async def test() -> None:
        client = Client()
        data = upload(chunked=False)
        client.send(data[:200_000])
        [served] = client.requests
        busy = served.dispatch()
        client.send(data[200_000:300_000])
        assert [frame.kind for frame in busy.frames] == [Kind.REQUEST]
        taken = served.dispatch()  # the router found another one
        served.grant(10 * len(LARGE))
        assert [frame.kind for frame in busy.frames] == [Kind.REQUEST]
        for start in range(300_000, len(data), 65536):
            client.send(data[start : start + 65536])
        assert taken.body() == LARGE
        assert taken.body_ended

    run(test())


def test_a_small_body_is_sent_whole_and_again_after_busy() -> None:
    body = b"x" * INLINE_BODY_BYTES

    async def test() -> None:
        client = Client()
        request = request_bytes(b"POST", b"/", b"content-length: %d" % len(body), body=body)
        client.send(request[:1000])
        assert client.requests == [], "not routed before it is here"
        client.send(request[1000:])
        [served] = client.requests
        for _ in range(3):
            assert served.dispatch().request()[1:] == (body, True)

    run(test())


def test_an_answer_before_the_body_has_come_closes_the_connection() -> None:
    async def test() -> None:
        client = Client()
        client.send(upload(chunked=False)[:100_000])
        [served] = client.requests
        served.dispatch()
        served.respond(b"enough", 413)
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert is_over(client)
        client.send(upload(chunked=False)[100_000:])
        assert len(client.requests) == 1, "the rest is discarded"
        assert not client.transport.closing, "the client may still be sending: a reset could overtake the answer"
        client.connection.timed_out()
        await client.received()
        assert client.transport.lost

    run(test())


@pytest.mark.parametrize("large", [False, True])
def test_expect_continue(large: bool) -> None:
    async def test() -> None:
        client = Client()
        body = b"x" * (100_000 if large else 5)
        head = request_bytes(b"POST", b"/", b"content-length: %d" % len(body), b"expect: 100-continue")
        client.send(head)
        assert await client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        client.requests[0].dispatch()
        client.requests[0].respond(b"x")
        assert (await client.response()).body == b"x"

    run(test())


# --- bad requests ---------------------------------------------------------------------------------------


def test_a_malformed_request_is_refused_and_the_connection_closed() -> None:
    async def test() -> None:
        client = Client()
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert is_over(client)
        assert client.requests == []
        client.connection.timed_out()
        await client.received()
        assert client.closed == 1

    run(test())


@pytest.mark.parametrize("begun", [False, True])
def test_a_body_that_turns_out_malformed_cancels_the_request(begun: bool) -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"POST", b"/", b"transfer-encoding: chunked", body=b"3\r\nabc\r\n"))
        [served] = client.requests
        link = served.dispatch()
        if begun:
            served.head()
        client.send(b"not a chunk\r\n")
        data = await client.received()
        assert link.cancelled == [served.stream]
        assert is_over(client)
        if begun:
            assert b"HTTP/1.1 400" not in data, "not into the middle of another response"
        else:
            assert data.startswith(b"HTTP/1.1 400")

    run(test())


# --- deadlines: one attribute, looked at by the proxy's sweep ---------------------------------------------


def in_seconds(client: Client) -> float:
    return client.connection.deadline - asyncio.get_running_loop().time()


def test_deadlines_follow_what_is_waited_for() -> None:
    limits = HTTPLimits(header_timeout_s=10, body_idle_timeout_s=30)

    async def test() -> None:
        client = Client(limits)
        assert in_seconds(client) == pytest.approx(10, abs=5), "the first byte"
        client.send(b"POST / HTTP/1.1\r\n")
        before = client.connection.deadline
        client.send(b"host: h\r\n")
        assert client.connection.deadline == before, "the header has one deadline, not one for each byte"
        client.send(b"content-length: 10000\r\n\r\n")
        assert in_seconds(client) == pytest.approx(30, abs=5)
        client.connection._deadline.at = 0
        client.send(b"x" * 100)
        assert client.connection.deadline == 0, "a trickle does not renew it"
        client.send(b"x" * 5000)
        assert in_seconds(client) == pytest.approx(30, abs=5)
        client.send(b"x" * 4900)
        assert in_seconds(client) == float("inf"), "the client waits for us now"
        client.requests[0].dispatch()
        client.requests[0].respond()
        assert in_seconds(client) == pytest.approx(HTTPLimits().keep_alive_timeout_s, abs=5)
        client.send(b"G")
        assert in_seconds(client) == pytest.approx(10, abs=5)

    run(test())


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab"])
def test_a_request_that_does_not_come_in_time_is_408(sent: bytes) -> None:
    async def test() -> None:
        client = Client()
        client.send(sent)
        client.connection.timed_out()
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert is_over(client)

    run(test())


def test_a_large_upload_that_stalls_is_408_and_cancels() -> None:
    async def test() -> None:
        client = Client()
        client.send(upload(chunked=False)[:100_000])
        [served] = client.requests
        link = served.dispatch()
        client.connection.timed_out()
        assert (await client.response()).status == 408
        assert link.cancelled == [served.stream]

    run(test())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def test() -> None:
        fresh, used = Client(), Client()
        used.get()
        used.requests[0].dispatch()
        used.requests[0].respond()
        await used.received()
        for client in (fresh, used):
            client.connection.timed_out()
            assert await client.received() == b""
            assert is_over(client)

    run(test())


def test_a_client_is_not_late_while_we_do_not_read() -> None:
    """An upload to a deployment that is busy, or reads slowly, may take as long as the deployment does."""

    async def test() -> None:
        client = Client()
        data = upload(chunked=False)
        position = 0
        while client.transport.reading:
            client.send(data[position : position + 65536])
            position += 65536
        assert in_seconds(client) == float("inf")
        [served] = client.requests
        served.dispatch()
        served.grant(300_000)
        assert client.transport.reading
        assert in_seconds(client) == pytest.approx(30, abs=5), "now it is the client's turn again"

    run(test())


def test_a_pipelined_upload_is_not_late_while_the_request_before_it_runs() -> None:
    async def test() -> None:
        client = Client()
        client.get()
        client.send(request_bytes(b"POST", b"/", b"content-length: 10", body=b"half"))
        assert not client.transport.reading
        assert in_seconds(client) == float("inf")
        client.requests[0].dispatch()
        client.requests[0].respond()
        await client.received()
        assert client.transport.reading
        assert in_seconds(client) == pytest.approx(30, abs=5)

    run(test())


def test_the_last_frame_of_an_upload_is_marked() -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"POST", b"/", b"transfer-encoding: chunked", body=b"3\r\nabc\r\n"))
        [served] = client.requests
        link = served.dispatch()
        served.grant(1000)
        assert (link.body(), link.body_ended) == (b"abc", False)
        client.send(b"0\r\n\r\n")
        last = link.frames[-1]
        assert (last.kind, bytes(last.payload), last.flags) == (Kind.BODY, b"", END)

    run(test())


def test_the_end_of_an_upload_waits_for_credit() -> None:
    async def test() -> None:
        client = Client()
        client.send(request_bytes(b"POST", b"/", b"transfer-encoding: chunked", body=b"3\r\nabc\r\n"))
        [served] = client.requests
        link = served.dispatch()
        served.grant(3)
        client.send(b"0\r\n\r\n")
        assert (link.body(), link.body_ended) == (b"abc", False)
        served.grant(1)
        assert link.body_ended

    run(test())
