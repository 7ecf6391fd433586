"""The replica's side of the protocol, frame by frame: slots, reservations, cancelling, leaving, and user code."""

from __future__ import annotations

import asyncio
import pickle  # noqa: TID251 - to see that nothing calls it
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from salver.data.context import replica_identity, request_context
from salver.data.replica import slots as slots_module
from salver.wire.frames import END, Kind
from salver.wire.messages import (
    CallMeta,
    ErrorKind,
    ErrorMeta,
    RequestMeta,
    decode_error,
    decode_response,
    encode,
)
from salver.wire.payload import dump_definition, dump_value, load_exception

from .scene import Peer, RunningReplica, Scene, run, turns


async def peers(scene: Scene, replica: RunningReplica, count: int) -> list[Peer]:
    return [await scene.peer(replica, f"caller {number}") for number in range(count)]


# --- slots ----------------------------------------------------------------------------------------------


def test_slots_are_all_used_and_never_exceeded() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=3)
            [peer] = await peers(scene, replica, 1)
            for stream in range(1, 6):
                peer.call(stream, "work", stream)
            for stream in (4, 5):
                await peer.next(Kind.BUSY, stream)
            assert (gate.running, replica.load) == (3, 3)
            gate.open(3)
            assert {(await peer.frames.get()).kind for _ in range(3)} == {Kind.RESPONSE, Kind.READY}

    run(test())


def test_busy_then_ready_and_nothing_in_between() -> None:
    """The whole conversation of a caller that has to wait: no polling, no repeated offers."""

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            first, second, third = await peers(scene, replica, 3)
            first.call(1, "work", "first")
            await gate.entered.get()
            second.call(1, "work", "second")
            busy = await second.next(Kind.BUSY, 1)
            assert busy.load == 1
            third.send(Kind.WAIT)
            await second.nothing_more()
            await third.nothing_more()
            gate.open()
            assert await first.answer(1) == "first"
            await second.next(Kind.READY)
            await third.nothing_more()
            second.call(2, "work", "second")
            await gate.entered.get()
            await third.nothing_more()
            gate.open()
            assert await second.answer(2) == "second"
            await third.next(Kind.READY)
            for peer in (first, second, third):
                await peer.nothing_more()

    run(test())


def test_callers_get_slots_in_the_order_in_which_they_asked() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder, *waiting = await peers(scene, replica, 5)
            holder.call(1, "work", "holder")
            await gate.entered.get()
            for number in (2, 0, 3, 1):
                waiting[number].send(Kind.WAIT)
                await waiting[number].nothing_more()
            gate.open()
            for number in (2, 0, 3, 1):
                await waiting[number].next(Kind.READY)
                waiting[number].call(1, "work", number)
                assert await gate.entered.get() in {"holder", number}
                gate.open()
                assert await waiting[number].answer(1) == number

    run(test())


def test_a_caller_that_waits_twice_is_in_line_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            holder, eager, other = await peers(scene, replica, 3)
            holder.call(1)
            holder.call(2)
            await gate.entered.get()
            await gate.entered.get()
            for _ in range(3):
                eager.send(Kind.WAIT)
            eager.call(1)
            await eager.next(Kind.BUSY, 1)
            other.send(Kind.WAIT)
            await other.nothing_more()
            gate.open(2)
            await eager.next(Kind.READY)
            await other.next(Kind.READY)
            await eager.nothing_more()

    run(test())


def test_wait_at_a_free_replica_is_answered_at_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.send(Kind.WAIT)
            await peer.next(Kind.READY)
            peer.call(1, "work", "x")
            gate.open()
            assert await peer.answer(1) == "x"

    run(test())


def test_a_reserved_slot_is_kept_from_others() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            reserved, other = await peers(scene, replica, 2)
            reserved.send(Kind.WAIT)
            await reserved.next(Kind.READY)
            other.call(1, "echo", 1)
            await other.next(Kind.BUSY, 1)
            reserved.call(1, "echo", 2)
            assert await reserved.answer(1) == 2
            await other.next(Kind.READY)

    run(test())


@pytest.mark.parametrize("how", ["decline", "hang up", "expire"])
def test_an_unused_reservation_goes_to_the_next(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "_RESERVED_FOR_S", 0.02 if how == "expire" else 1000.0)

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            holder, first, second = await peers(scene, replica, 3)
            holder.call(1)
            await gate.entered.get()
            first.send(Kind.WAIT)
            await first.nothing_more()
            second.send(Kind.WAIT)
            await second.nothing_more()
            gate.open()
            await first.next(Kind.READY)
            if how == "decline":
                first.send(Kind.DECLINE)
            elif how == "hang up":
                first.hang_up()
            await second.next(Kind.READY)
            if how == "expire":  # too late: it is treated like anybody without a reservation
                gate.open()
                second.call(1, "work", "second")
                assert await gate.entered.get() == "second"
                assert await second.answer(1) == "second"

    run(test())


def test_a_caller_that_dies_in_line_or_at_work_blocks_nobody() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            working, waiting, survivor = await peers(scene, replica, 3)
            working.call(1, "work", "doomed")
            await gate.entered.get()
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()
            survivor.send(Kind.WAIT)
            await survivor.nothing_more()
            waiting.hang_up()
            working.hang_up()
            await survivor.next(Kind.READY)
            assert gate.left == ["doomed"], "its task was cancelled"
            assert replica.load == 0

    run(test())


# --- cancelling -----------------------------------------------------------------------------------------


def test_cancel_frees_the_slot_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            await gate.entered.get()
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            peer.send(Kind.CANCEL, 1)
            await peer.next(Kind.READY)
            assert (gate.running, replica.load) == (0, 0)
            await peer.nothing_more()

    run(test())
    assert caplog.records == [], "a cancelled call is no failure"


def test_a_call_cancelled_before_it_began_frees_its_slot() -> None:
    """Both frames come in one read: the task is cancelled before its first step."""

    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            for stream in range(1, 4):
                peer.call(stream)
                peer.send(Kind.CANCEL, stream)
                await peer.nothing_more()
                assert replica.load == 0
            request(peer, 9)
            peer.send(Kind.CANCEL, 9)
            await peer.nothing_more()
            peer.call(10, "work", "last")
            gate.open(10)
            assert await peer.answer(10) == "last"

    run(test())


def test_unknown_streams_are_ignored() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            [peer] = await peers(scene, replica, 1)
            for kind in (Kind.CANCEL, Kind.BODY, Kind.CREDIT, Kind.DECLINE, Kind.RESPONSE, Kind.SNAPSHOT):
                peer.send(kind, 77)
            peer.call(1, "echo", "fine")
            assert await peer.answer(1) == "fine"

    run(test())


class Stubborn:
    """Does not end when it is cancelled."""

    def __init__(self, gate: str) -> None:
        from .scene import GATES

        self.gate = GATES[gate]

    async def work(self) -> None:
        try:
            await self.gate.hold("first")
        except asyncio.CancelledError:
            await self.gate.hold("clean-up")


def test_a_slot_is_taken_until_user_code_has_really_ended() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.replica(Stubborn, name)
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            assert await gate.entered.get() == "first"
            peer.send(Kind.CANCEL, 1)
            assert await gate.entered.get() == "clean-up"
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            assert replica.load == 1
            gate.open()
            while (await peer.frames.get()).kind != Kind.READY:
                pass  # it swallowed the cancellation and answers: callers know the stream no more
            assert replica.load == 0

    run(test())


# --- leaving --------------------------------------------------------------------------------------------


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            working, idle = await peers(scene, replica, 2)
            working.call(1, "work", "finished")
            await gate.entered.get()
            replica.drain()
            await replica.control.next(Kind.RESPONSE, 2)
            await working.next(Kind.GOAWAY)
            await idle.next(Kind.GOAWAY)
            idle.call(1, "echo", 1)
            await idle.next(Kind.BUSY, 1)
            idle.hang_up()
            gate.open()
            assert await working.answer(1) == "finished"
            await working.nothing_more()
            assert not replica.replica.drained.is_set(), "a caller may still have something on its way"
            working.hang_up()
            await replica.replica.drained.wait()

    run(test())


def test_drain_does_not_wait_for_the_controllers_channel_and_may_be_asked_twice() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica()
            replica.drain()
            replica.drain()
            await replica.replica.drained.wait()
            assert not replica.control.lost.is_set()

    run(test())


def test_nobody_is_offered_a_slot_of_a_draining_replica() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            working, waiting = await peers(scene, replica, 2)
            working.call(1)
            await gate.entered.get()
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()
            replica.drain()
            await waiting.next(Kind.GOAWAY)
            gate.open()
            await working.next(Kind.GOAWAY)
            await working.answer(1)
            waiting.send(Kind.WAIT)
            await waiting.nothing_more()

    run(test())


def test_whoever_dials_a_draining_replica_is_told_to_go() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica()
            [working] = await peers(scene, replica, 1)
            working.call(1)
            await gate.entered.get()
            replica.drain()
            await working.next(Kind.GOAWAY)
            [late] = await peers(scene, replica, 1)
            await late.next(Kind.GOAWAY)
            late.hang_up()
            gate.open()
            await working.answer(1)
            working.hang_up()
            await replica.replica.drained.wait()

    run(test())


def test_close_cancels_what_runs() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, gate = await scene.gated_replica(capacity=2)
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            peer.call(2)
            await gate.entered.get()
            await gate.entered.get()
            await replica.replica.close()
            assert (gate.running, replica.load) == (0, 0)
            await peer.lost.wait()
            await replica.replica.close()

    run(test())


# --- construction ---------------------------------------------------------------------------------------


class Slow:
    """Its constructor waits at a gate."""

    async def __init__(self, gate: str) -> None:  # type: ignore[misc]
        from .scene import GATES

        await GATES[gate].hold("constructor")

    async def work(self) -> str:
        return "constructed"


class Broken:
    def __init__(self) -> None:
        raise ValueError("no model here")


def test_requests_before_the_constructor_has_ended_wait_for_it() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.bare_replica()
            [peer] = await peers(scene, replica, 1)
            peer.call(1)
            await peer.next(Kind.BUSY, 1)
            initialize = asyncio.create_task(replica.initialize(dump_definition((Slow, (name,), {})), 1))
            await gate.entered.get()
            peer.call(2)
            await peer.next(Kind.BUSY, 2)
            gate.open()
            assert (await initialize).kind == Kind.RESPONSE
            await peer.next(Kind.READY)
            peer.call(3)
            assert await peer.answer(3) == "constructed"

    run(test())


def test_initialize_asked_again_constructs_once() -> None:
    async def test() -> None:
        async with Scene() as scene:
            name, gate = scene.gate()
            replica = await scene.bare_replica()
            definition = dump_definition((Slow, (name,), {}))
            again = Peer()
            await again.dial(replica.address, "controller")
            first = asyncio.create_task(replica.initialize(definition, 1))
            await gate.entered.get()
            second = asyncio.create_task(again.nothing_more())
            await turns()
            assert not second.done()
            gate.open()
            assert (await first).kind == Kind.RESPONSE
            await second
            assert gate.entered.empty()
            again.hang_up()

    run(test())


def test_a_constructor_that_raises_is_answered_with_the_users_traceback() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.bare_replica()
            for _ in range(2):  # asked again, it says the same and does not try again
                answer = await replica.initialize(dump_definition((Broken, (), {})), 1)
                assert answer.kind == Kind.ERROR
                meta = decode_error(answer.meta)
                assert (meta.kind, meta.type_name, meta.message) == (
                    ErrorKind.CONSTRUCTOR,
                    "ValueError",
                    "no model here",
                )
                assert 'raise ValueError("no model here")' in meta.traceback
                assert "user_code.py" not in meta.traceback, "our own frames say nothing to the user"

    run(test())


@pytest.mark.parametrize("definition", [b"", b"rubbish", b"cno_such_module\nThing\n."])
def test_a_definition_that_cannot_be_loaded_is_the_answer(definition: bytes) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.bare_replica()
            answer = await replica.initialize(definition, 1)
            assert decode_error(answer.meta).kind == ErrorKind.CONSTRUCTOR

    run(test())


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


def request(peer: Peer, stream: int, body: bytes = b"", method: str = "GET", flags: int = END) -> None:
    meta = RequestMeta(
        method,
        b"/root/path?q=1",
        [(b"host", b"h"), (b"content-type", b"application/python-pickle")],
        "http-id",
        "1.1",
        "/root",
        "app",
        "http",
        ("10.0.0.1", 5),
        ("10.0.0.2", 80),
    )
    peer.send(Kind.REQUEST, stream, encode(meta), body, flags)


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
            request(peer, 1, b"the body", "POST")
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
            request(peer, 1)
            frame = await peer.next(Kind.RESPONSE, 1)
            assert bytes(frame.payload).startswith(b"salver-d")

    run(test())


def test_http_failures_are_for_the_ingress_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(NoHandler)
            [peer] = await peers(scene, replica, 1)
            request(peer, 1)
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
                request(peer, stream, body, "POST")
                frame = await peer.next(Kind.RESPONSE, stream)
                assert decode_response(frame.meta).status == 200
            request(peer, 8, b"", "POST", flags=0)
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
