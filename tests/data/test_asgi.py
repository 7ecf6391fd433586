"""One request inside a replica: ASGI in order or an error, credit both ways, unsafe headers never sent."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from salver.data.channel import Channel
from salver.data.http.response import InvalidHeader
from salver.data.replica.asgi import WHOLE_AT_MOST, HTTPExchange, InvalidASGI, build_scope
from salver.wire.frames import END, PIECES, Buffer, Frame, Kind
from salver.wire.messages import (
    BODY_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    ErrorKind,
    ErrorMeta,
    RequestMeta,
    ResponseMeta,
    decode_credit,
    decode_error,
    decode_response,
    encode_credit,
)
from salver.wire.pieces import PIECE

from .scene import Scene, run, turns

STREAM = 7
FAILURE = ErrorMeta(ErrorKind.USER, "ValueError", "of the application", "its traceback")


class Sent:
    """The channel, as far as an exchange uses it."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def send(
        self, kind: int, stream: int = 0, meta: bytes = b"", payload: Buffer = b"", flags: int = 0, load: int = 0
    ) -> None:
        assert stream == STREAM
        self.frames.append(Frame(kind, flags, stream, load, meta, bytes(payload)))

    def send_piece(self, stream: int, piece: bytes) -> None:
        self.send(Kind.DATA, stream, b"", piece, PIECES)

    def take(self) -> list[tuple[Kind, bytes, int]]:
        frames, self.frames = self.frames, []
        return [(Kind(frame.kind), bytes(frame.payload), frame.flags) for frame in frames]


def exchange(body: bytes = b"", flags: int = END) -> tuple[HTTPExchange, Sent]:
    sent = Sent()
    frame = Frame(Kind.REQUEST, flags, STREAM, 0, b"", body)
    return HTTPExchange(cast(Channel, sent), frame), sent


def body_frame(body: bytes, flags: int = 0) -> Frame:
    return Frame(Kind.BODY, flags, STREAM, 0, b"", body)


def credit_frame(size: int) -> Frame:
    return Frame(Kind.CREDIT, 0, STREAM, 0, encode_credit(size), b"")


def start(status: int = 200, headers: Any = ()) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def piece(body: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


# --- the scope ------------------------------------------------------------------------------------------


def test_the_scope_of_a_request() -> None:
    headers = [(b"host", b"h"), (b"x", b"\xff")]
    meta = RequestMeta(
        "POST", b"/a%20b/%E2%82%AC?x=%20", headers, "id", "1.1", "/root", "app", "http", ("c", 1), ("s", 2)
    )
    assert build_scope(meta) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a b/€",
        "raw_path": b"/a%20b/%E2%82%AC",
        "query_string": b"x=%20",
        "root_path": "/root",
        "headers": headers,
        "client": ("c", 1),
        "server": ("s", 2),
        "state": {},
    }


# --- receive --------------------------------------------------------------------------------------------


def test_a_whole_body_is_one_message_then_the_disconnect_is_waited_for() -> None:
    async def test() -> None:
        http, sent = exchange(b"body")
        assert await http.receive() == {"type": "http.request", "body": b"body", "more_body": False}
        waiting = asyncio.create_task(http.receive())
        await turns()
        assert not waiting.done()
        http.disconnect()
        assert await waiting == {"type": "http.disconnect"}
        assert sent.take() == [], "no credit for a body that is complete"

    run(test())


def test_a_request_without_a_body_has_one_empty_message() -> None:
    async def test() -> None:
        http, _ = exchange()
        assert await http.receive() == {"type": "http.request", "body": b"", "more_body": False}

    run(test())


def test_the_answers_end_is_a_disconnect_too() -> None:
    async def test() -> None:
        http, _ = exchange()
        await http.receive()
        waiting = asyncio.create_task(http.receive())
        await http.send(start())
        await turns()
        await http.send(piece(b"x"))
        assert await waiting == {"type": "http.disconnect"}

    run(test())


def test_a_streamed_body_is_granted_credit_as_it_is_read() -> None:
    async def test() -> None:
        http, sent = exchange(flags=0)
        [frame] = sent.frames
        assert (frame.kind, decode_credit(frame.meta)) == (Kind.CREDIT, BODY_WINDOW_BYTES)
        sent.frames.clear()
        size = BODY_WINDOW_BYTES // 8
        assert (await http.receive())["more_body"]
        for _ in range(2):
            http.body_received(body_frame(b"x" * size))
        assert sent.frames == [], "nothing has been read yet"
        assert len((await http.receive())["body"]) == size
        assert sent.frames == [], "credit comes in steps worth a frame"
        await http.receive()
        assert [decode_credit(frame.meta) for frame in sent.frames] == [2 * size]
        http.body_received(body_frame(b"last", END))
        assert await http.receive() == {"type": "http.request", "body": b"last", "more_body": False}

    run(test())


def test_an_empty_last_frame_ends_the_body() -> None:
    async def test() -> None:
        http, _ = exchange(flags=0)
        await http.receive()
        waiting = asyncio.create_task(http.receive())
        await turns()
        http.body_received(body_frame(b"", END))
        assert await waiting == {"type": "http.request", "body": b"", "more_body": False}

    run(test())


def test_a_disconnect_cuts_what_was_not_read() -> None:
    async def test() -> None:
        http, _ = exchange(b"half", flags=0)
        http.disconnect()
        assert await http.receive() == {"type": "http.disconnect"}
        with pytest.raises(OSError, match="disconnected"):
            await http.send(start())

    run(test())


def test_two_tasks_may_wait_for_the_disconnect() -> None:
    async def test() -> None:
        http, _ = exchange()
        await http.receive()
        waiting = [asyncio.create_task(http.receive()) for _ in range(3)]
        await turns()
        waiting[0].cancel()
        await turns()
        http.disconnect()
        assert await waiting[1] == await waiting[2] == {"type": "http.disconnect"}

    run(test())


# --- send -----------------------------------------------------------------------------------------------


def test_a_response_that_is_known_at_once_is_one_frame() -> None:
    async def test() -> None:
        http, sent = exchange()
        await http.send(start(201, [(b"X", b"1"), (b"content-length", b"4")]))
        assert sent.frames == [], "the head waits for the body"
        await http.send(piece(b"body"))
        [frame] = sent.frames
        assert (frame.kind, frame.payload) == (Kind.RESPONSE, b"body")
        assert decode_response(frame.meta) == ResponseMeta(201, b"X: 1\r\n", 4)
        assert http.finished

    run(test())


def test_a_stream_leaves_piece_by_piece() -> None:
    async def test() -> None:
        http, sent = exchange()
        await http.send(start())
        for body in (b"one", b"", b"two"):
            await http.send(piece(body, more=True))
        await http.send(piece(b"three"))
        assert sent.take() == [
            (Kind.HEAD, b"", 0),
            (Kind.DATA, b"3\r\none\r\n", PIECES),
            (Kind.DATA, b"3\r\ntwo\r\n", PIECES),
            (Kind.DATA, b"three", END),
        ]

    run(test())


def test_a_stream_of_a_declared_length_leaves_as_it_is() -> None:
    async def test() -> None:
        http, sent = exchange()
        await http.send(start(headers=[(b"content-length", b"6")]))
        for body in (b"one", b"two"):
            await http.send(piece(body, more=True))
        await http.send(piece())
        assert sent.take() == [
            (Kind.HEAD, b"", 0),
            (Kind.DATA, b"one", 0),
            (Kind.DATA, b"two", 0),
            (Kind.DATA, b"", END),
        ]

    run(test())


def test_a_large_body_is_cut_even_when_known_at_once() -> None:
    body = bytes(range(256)) * 8192

    async def test() -> None:
        http, sent = exchange()
        await http.send(start())
        sending = asyncio.create_task(http.send(piece(body)))
        received = b""
        while not sending.done():
            await turns()
            frames = sent.take()
            assert all(len(payload) <= STREAM_WINDOW_BYTES for _, payload, _ in frames)
            granted = sum(len(payload) for _, payload, _ in frames)
            received += b"".join(payload for _, payload, _ in frames)
            http.credit_received(credit_frame(granted))
        await sending
        received += b"".join(payload for _, payload, _ in sent.take())
        assert received == body
        assert http.finished

    run(test())


def test_a_slow_client_stops_the_application() -> None:
    async def test() -> None:
        http, sent = exchange()
        await http.send(start())
        await http.send(piece(b"x" * STREAM_WINDOW_BYTES, more=True))
        stuck = asyncio.create_task(http.send(piece(b"next", more=True)))
        await turns()
        assert not stuck.done()
        sent.take()
        http.credit_received(
            credit_frame(len(PIECE % (STREAM_WINDOW_BYTES, b"")) + 1)
        )  # the first one's, and one more
        await stuck
        assert sent.take() == [(Kind.DATA, b"next", 0)]
        end = asyncio.create_task(http.send(piece()))
        await turns()
        assert not end.done(), "the end waits for credit too: the caller's buffer is full"
        http.credit_received(credit_frame(STREAM_WINDOW_BYTES))
        await end
        assert sent.take() == [(Kind.DATA, b"", END)]

    run(test())


def test_an_application_that_waits_for_credit_hears_of_the_disconnect() -> None:
    async def test() -> None:
        http, _ = exchange()
        await http.send(start())
        await http.send(piece(b"x" * STREAM_WINDOW_BYTES, more=True))
        stuck = asyncio.create_task(http.send(piece(b"next", more=True)))
        await turns()
        http.disconnect()
        with pytest.raises(OSError, match="disconnected"):
            await stuck

    run(test())


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([piece(b"x")], "before http.response.start"),
        ([start(), start()], "sent twice"),
        ([start(), piece(), piece()], "after the end"),
        ([start(), piece(b"x", more=True), piece(), piece()], "after the end"),
        ([start(), piece(b"x", more=True), start()], "sent twice"),
        ([{"type": "websocket.accept"}], "'websocket.accept', which means nothing here"),
        ([start(), {"type": "http.response.push"}], "means nothing here"),
    ],
)
def test_messages_out_of_order_are_the_applications_error(messages: list[dict[str, Any]], error: str) -> None:
    async def test() -> None:
        http, _ = exchange()
        for message in messages[:-1]:
            await http.send(message)
        with pytest.raises(InvalidASGI, match=error):
            await http.send(messages[-1])

    run(test())


@pytest.mark.parametrize(
    "header",
    [(b"x", b"a\r\nset-cookie: b"), (b"x\r\ny", b"v"), (b"x", b"a\x00"), (b"", b"v"), (b"content-length", b"-1")],
)
def test_unsafe_headers_are_never_sent(header: tuple[bytes, bytes]) -> None:
    async def test() -> None:
        http, sent = exchange()
        with pytest.raises(InvalidHeader):
            await http.send(start(200, [header]))
        http.fail(FAILURE)
        [frame] = sent.frames
        assert frame.kind == Kind.ERROR
        assert b"set-cookie" not in frame.meta

    run(test())


@pytest.mark.parametrize("status", [99, 600, -1, 0, 100, 101, "200", None])
def test_a_status_that_is_none_is_the_applications_error(status: Any) -> None:
    async def test() -> None:
        http, sent = exchange()
        with pytest.raises(InvalidASGI, match="200 to 599"):
            await http.send(start(status))
        with pytest.raises(InvalidASGI, match="200 to 599"):
            http.respond(status, b"", b"")
        http.fail(FAILURE)
        assert [frame.kind for frame in sent.frames] == [Kind.ERROR]

    run(test())


@pytest.mark.parametrize("started", [False, True])
def test_failing_is_said_once_for_the_ingress_to_answer(started: bool) -> None:
    async def test() -> None:
        http, sent = exchange()
        await http.send(start())
        if started:
            await http.send(piece(b"part", more=True))
        sent.take()
        http.fail(FAILURE)
        http.fail(FAILURE)
        [frame] = sent.frames
        assert (frame.kind, decode_error(frame.meta), frame.payload) == (Kind.ERROR, FAILURE, b"")

    run(test())


def test_nothing_is_sent_to_a_client_that_left() -> None:
    async def test() -> None:
        http, sent = exchange()
        http.disconnect()
        http.respond(200, b"", b"body")
        assert sent.frames == []
        assert http.finished

    run(test())


# --- through a real replica -----------------------------------------------------------------------------


async def forges_headers(request: Any) -> Any:
    from starlette.responses import Response

    return Response("x", headers={"x-from-client": "a\r\nset-cookie: forged=1"})


async def streams_then_raises(request: Any) -> Any:
    from starlette.responses import StreamingResponse

    async def pieces() -> Any:
        yield b"first"
        raise ValueError("in the middle")

    return StreamingResponse(pieces())


@pytest.mark.parametrize("target", [forges_headers, streams_then_raises])
def test_user_code_that_breaks_http(target: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(target)
            peer = await scene.peer(replica)
            peer.request(1)
            if target is forges_headers:
                frame = await peer.next(Kind.ERROR, 1)
                assert decode_error(frame.meta).kind == ErrorKind.USER
            else:
                await peer.next(Kind.HEAD, 1)
                assert bytes((await peer.next(Kind.DATA, 1)).payload) == b"5\r\nfirst\r\n"
                await peer.next(Kind.ERROR, 1)
            assert replica.load == 0

    run(test())
    assert "x-from-client" in caplog.text or "in the middle" in caplog.text


def test_a_large_body_that_is_known_at_once_goes_out_as_far_as_credit_allows() -> None:
    async def main() -> None:
        answered, sent = exchange()
        body = bytes(WHOLE_AT_MOST + 1)
        task = asyncio.create_task(answered.respond_in_pieces(200, b"", body))
        await turns()
        head, *pieces = sent.frames
        assert decode_response(head.meta).content_length == len(body)
        assert [len(frame.payload) for frame in pieces] == [STREAM_WINDOW_BYTES]
        answered.credit_received(credit_frame(len(body)))
        await task
        assert b"".join(bytes(frame.payload) for frame in sent.frames[1:]) == body
        answered.check_finished()

    run(main())


def test_a_piece_after_the_end_is_refused() -> None:
    async def main() -> None:
        answered, _ = exchange()
        for message in (start(), piece(b"a", more=True), piece()):
            await answered.send(message)
        with pytest.raises(InvalidASGI):
            await answered.send(piece(b"b", more=True))

    run(main())
