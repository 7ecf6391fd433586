"""Requests in user code, as the caller sees them: answers, errors, HTTP, and nothing unpickled from HTTP."""

from __future__ import annotations

import asyncio
import pickle  # noqa: TID251 - to see that nothing calls it
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from salver.data.context import replica_identity, request_context
from salver.wire.frames import END, Kind
from salver.wire.messages import (
    CallMeta,
    ErrorKind,
    ErrorMeta,
    decode_error,
    decode_response,
    encode,
)
from salver.wire.payload import dump_value, load_exception

from .scene import Peer, RunningReplica, Scene, run


async def peers(scene: Scene, replica: RunningReplica, count: int) -> list[Peer]:
    return [await scene.peer(replica, f"caller {number}") for number in range(count)]


# --- what user code does --------------------------------------------------------------------------------


class UserError(Exception):
    def __str__(self) -> str:
        return "the user's own text"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Misbehaving:
    def plain(self) -> str:
        return "from a thread"

    def raises(self) -> None:
        raise UserError

    async def exits(self) -> None:
        sys.exit(3)

    def exits_in_thread(self) -> None:
        raise SystemExit(3)

    async def interrupts(self) -> None:
        raise KeyboardInterrupt

    async def unprintable(self) -> None:
        raise Unprintable

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    def lock(self) -> object:
        import threading

        return threading.Lock()

    def generator(self) -> Iterator[int]:
        yield 1

    async def async_generator(self) -> AsyncIterator[int]:
        yield 1

    def returns_coroutine(self) -> object:
        async def later() -> str:
            return "awaited"

        return later()

    async def context(self) -> tuple[object, ...]:
        here, identity = request_context.get(), replica_identity.get()
        assert identity is not None
        return here.route, here.request_id, here.app_name, here.is_http_request, identity.replica_id


@pytest.mark.parametrize(
    ("method", "kind", "type_name", "message"),
    [
        ("raises", ErrorKind.USER, "UserError", "the user's own text"),
        ("exits", ErrorKind.USER, "SystemExit", "3"),
        ("exits_in_thread", ErrorKind.USER, "SystemExit", "3"),
        ("interrupts", ErrorKind.USER, "KeyboardInterrupt", ""),
        ("unprintable", ErrorKind.USER, "Unprintable", "<Unprintable whose __str__ raises>"),
        ("cancels_itself", ErrorKind.CANCELLED, "CancelledError", ""),
        ("missing", ErrorKind.NO_METHOD, "MethodMissing", "Tried to call a method 'missing' that does not exist."),
        ("generator", ErrorKind.GENERATOR, "UnexpectedGenerator", "Method 'generator' returned a generator."),
        ("async_generator", ErrorKind.GENERATOR, "UnexpectedGenerator", "Method 'async_generator' returned"),
        (
            "lock",
            ErrorKind.SERIALIZATION,
            "SerializationError",
            "the result of d.lock cannot be pickled: _thread.lock",
        ),
    ],
)
def test_whatever_user_code_does_is_an_answer_and_frees_the_slot(
    method: str, kind: str, type_name: str, message: str
) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Misbehaving)
            [peer] = await peers(scene, replica, 1)
            for stream in (1, 2):
                peer.call(stream, method)
                frame = await peer.next(Kind.ERROR, stream)
                meta = decode_error(frame.meta)
                assert (meta.kind, meta.type_name) == (kind, type_name)
                assert meta.message.startswith(message)
                if method == "raises":
                    assert isinstance(load_exception(frame.payload), UserError)
                    assert "raise UserError" in meta.traceback
                    assert "salver/data" not in meta.traceback, "our own frames say nothing to the user"
            peer.call(3, "plain")
            assert await peer.answer(3) == "from a thread"
            assert replica.load == 0

    run(test())


def test_a_coroutine_that_a_plain_method_returns_is_awaited() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Misbehaving)
            [peer] = await peers(scene, replica, 1)
            peer.call(1, "returns_coroutine")
            assert await peer.answer(1) == "awaited"

    run(test())


def test_code_knows_the_request_it_works_for() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Misbehaving)
            [peer] = await peers(scene, replica, 1)
            meta = encode(CallMeta("context", "the-id", "/route", "calling-app"))
            peer.send(Kind.CALL, 1, meta, bytes(dump_value(((), {}))))
            assert await peer.answer(1) == ("/route", "the-id", "app", False, replica.route.replica_id)

    run(test())


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.REQUEST])
def test_a_request_that_cannot_be_read_does_not_cost_a_slot(kind: Kind) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.send(kind, 1, b"\xff rubbish", b"", END)
            frame = await peer.frames.get()
            assert frame.stream == 1
            assert frame.kind == Kind.ERROR
            peer.call(2, "echo", "still there")
            assert await peer.answer(2) == "still there"
            assert replica.load == 0

    run(test())


def test_arguments_that_cannot_be_rebuilt_are_the_callers_error() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.send(Kind.CALL, 1, encode(CallMeta("echo", "id")), b"\x00\x00\x00\x00rubbish")
            meta: ErrorMeta = decode_error((await peer.next(Kind.ERROR, 1)).meta)
            assert meta.kind == ErrorKind.SERIALIZATION

    run(test())


# --- HTTP -----------------------------------------------------------------------------------------------


class Web:
    async def __call__(self, request: Any) -> dict[str, object]:
        context = request_context.get()
        return {
            "url": str(request.url),
            "client": request.client.host,
            "body": (await request.body()).decode("latin-1"),
            "context": [context.route, context.request_id, context.app_name, context.is_http_request],
        }


def thread_handler(request: Any) -> str:
    import threading

    return threading.current_thread().name


class NoHandler:
    pass


def test_an_http_request_is_answered_whole() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Web)
            [peer] = await peers(scene, replica, 1)
            peer.request(1, b"the body", "POST")
            frame = await peer.next(Kind.RESPONSE, 1)
            meta = decode_response(frame.meta)
            assert (meta.status, meta.header_block) == (200, b"content-type: application/json\r\n")
            assert bytes(frame.payload) == (
                b'{"url":"http://h/root/path?q=1","client":"10.0.0.1","body":"the body",'
                b'"context":["/root","http-id","app",true]}'
            )

    run(test())


def test_a_plain_function_handles_http_in_a_thread_of_the_replica() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(thread_handler)
            [peer] = await peers(scene, replica, 1)
            peer.request(1)
            frame = await peer.next(Kind.RESPONSE, 1)
            assert bytes(frame.payload).startswith(b"salver-d")

    run(test())


def test_http_failures_are_for_the_ingress_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(NoHandler)
            [peer] = await peers(scene, replica, 1)
            peer.request(1)
            frame = await peer.next(Kind.ERROR, 1)
            assert (decode_error(frame.meta).kind, frame.payload) == (ErrorKind.USER, b"")

    run(test())
    assert "no __call__ method" in caplog.text


# --- no pickle from the network -------------------------------------------------------------------------

_audited: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _audited is not None and event == "pickle.find_class":
        _audited.append(".".join(arguments))


def test_http_bytes_never_reach_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: whatever an HTTP client sends, nothing is unpickled; the same bytes in a CALL show that we would see it."""
    global _audited
    sys.addaudithook(_audit)
    loads: list[bytes] = []
    real_loads = pickle.loads

    def counting(data: Any, **options: Any) -> Any:
        loads.append(bytes(data))
        return real_loads(data, **options)

    hostile = b"cbuiltins\neval\n(S'1/0'\ntR."

    async def test() -> None:
        global _audited
        async with Scene() as scene:
            replica = await scene.replica(Web)
            [peer] = await peers(scene, replica, 1)
            monkeypatch.setattr(pickle, "loads", counting)
            _audited = []
            for stream, body in enumerate((hostile, b"\x00\x00\x00\x00" + hostile, bytes(dump_value(((), {})))), 1):
                peer.request(stream, body, "POST")
                frame = await peer.next(Kind.RESPONSE, stream)
                assert decode_response(frame.meta).status == 200
            peer.request(8, b"", "POST", flags=0)
            await peer.next(Kind.CREDIT, 8)
            peer.send(Kind.BODY, 8, b"", hostile, END)
            await peer.next(Kind.RESPONSE, 8)
            assert (_audited, loads) == ([], [])
            peer.send(Kind.CALL, 9, encode(CallMeta("__call__", "id")), b"\x00\x00\x00\x00" + hostile)
            await peer.next(Kind.ERROR, 9)
            assert _audited[:1] == ["builtins.eval"]
            assert loads == [hostile]

    try:
        run(test())
    finally:
        _audited = None
