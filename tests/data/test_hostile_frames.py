"""Whatever a process that knows the session key sends: the replica lives, and nothing but a call is unpickled."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.fuzzing import examples
from salver.data.channel import Channel
from salver.wire.frames import END, HEADER, Frame, Kind, encode_frame
from salver.wire.messages import (
    BODY_WINDOW_BYTES,
    CallMeta,
    CloseMeta,
    Drain,
    ErrorMeta,
    RequestMeta,
    ResponseMeta,
    encode,
    encode_credit,
)
from salver.wire.payload import dump_value

from .client_scene import MemoryTransport
from .scene import RunningReplica, Scene, hello, run

_found: list[str] | None = None


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _found is not None and event == "pickle.find_class":
        _found.append(f"{arguments[0]}.{arguments[1]}")


sys.addaudithook(_audit)


@pytest.fixture
def unpickled() -> Generator[list[str]]:
    """What pickles ask for by name while the test runs."""
    global _found
    _found = []
    yield _found
    _found = None


class Echo:
    """The application."""

    async def __call__(self, request: object) -> str:
        return "ok"

    async def echo(self, value: object) -> object:
        return value


class Harmless:
    """Says that it was unpickled, by the name that it asks for."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return complex, (1, 2)


EVIL = bytes(dump_value(Harmless()))[4:]  # the pickle by itself
PAYLOADS = st.sampled_from([b"", b"x", EVIL, bytes(dump_value(((Harmless(),), {})))]) | st.binary(max_size=40)
REQUEST = RequestMeta("GET", b"/", [(b"host", b"a")], "id", "1.1", "", "app", "http", None, None)
METAS = st.sampled_from(
    [
        b"",
        encode(hello()),
        encode(CallMeta("echo", "id")),
        encode(CallMeta("echo", "id", stream=True)),
        encode(REQUEST),
        encode(REQUEST)[:-3],
        encode(RequestMeta("GET", b"/", [], "id", "1.1", "", "app", "ws", None, None)),
        encode(ResponseMeta(200, b"")),
        encode(ErrorMeta("user", "E", "m")),
        encode(CloseMeta()),
        encode(Drain())[:-1],
        encode_credit(1),
        encode_credit(2**32 - 1),
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xc1",
        EVIL,
    ]
) | st.binary(max_size=30)
DRAIN = encode(Drain())  # it would end the replica, as it should; who has the key may
NO_CALLS = st.sampled_from([kind for kind in Kind if kind != Kind.CALL])


def frames(kinds: st.SearchStrategy[Kind]) -> st.SearchStrategy[list[Frame]]:
    one = st.builds(Frame, kinds, st.integers(0, 7), st.integers(0, 3), st.just(0), METAS, PAYLOADS)
    return st.lists(one.filter(lambda frame: frame.payload != DRAIN), max_size=12)


def wire(sent: list[Frame]) -> bytes:
    return b"".join(encode_frame(each.kind, each.stream, each.meta, each.payload, each.flags) for each in sent)


class Transport(MemoryTransport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """What is written after the end is lost, as with a socket."""


class Caller:
    """A process that has introduced itself, without a socket."""

    def __init__(self, replica: RunningReplica) -> None:
        self.channel: Channel = replica.replica.accept()
        self.transport = Transport(self.channel)
        self.channel.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        """Anything but an exception may come of it."""
        if not self.transport.closing:
            self.channel.data_received(data)

    async def leave(self) -> None:
        self.transport.abort()
        await asyncio.sleep(0)


GREETING = encode_frame(Kind.HELLO, 0, encode(hello()))


async def attack(replica: RunningReplica, data: list[bytes]) -> None:
    """Send this after a good hello, and let come of it what may."""
    caller = Caller(replica)
    caller.send(GREETING)
    for piece in data:
        caller.send(piece)
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    await caller.leave()


async def attack_and_look(data: list[bytes]) -> None:
    """Afterwards a replica of one slot still answers, so that slot is free."""
    async with Scene() as scene:
        replica = await scene.replica(Echo, capacity=1)
        await attack(replica, data)
        peer = await scene.peer(replica)
        peer.call(1, "echo", "alive")
        while (await peer.frames.get()).kind in (Kind.BUSY, Kind.READY):
            peer.call(1, "echo", "alive")
        assert replica.load == 0


@examples(500)
@given(sent=frames(st.sampled_from(list(Kind))), cut=st.integers(0, 400))
def test_any_frames_leave_the_replica_alive(sent: list[Frame], cut: int) -> None:
    data = wire(sent)
    run(attack_and_look([data[:cut], data[cut:]]))


@examples(300)
@given(pieces=st.lists(st.binary(max_size=60) | st.builds(wire, frames(NO_CALLS)), max_size=4))
def test_any_bytes_leave_the_replica_alive(pieces: list[bytes]) -> None:
    run(attack_and_look(pieces))


@examples(500)
@given(sent=frames(NO_CALLS))
def test_nothing_but_a_call_is_unpickled(sent: list[Frame]) -> None:
    global _found

    async def test() -> None:
        global _found
        async with Scene() as scene:
            replica = await scene.replica(Echo, capacity=10)
            _found = []
            await attack(replica, [wire(sent)])
            assert _found == []
            _found = None

    try:
        run(test())
    finally:
        _found = None


def test_a_call_is_unpickled(unpickled: list[str]) -> None:
    """So that the test above would notice."""

    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Echo)
            unpickled.clear()
            payload = bytes(dump_value(((Harmless(),), {})))
            await attack(replica, [encode_frame(Kind.CALL, 1, encode(CallMeta("echo", "id")), payload)])
            assert unpickled == ["builtins.complex"]

    run(test())


# --- before the hello, and beyond what was granted ---------------------------------------------------------


@pytest.mark.parametrize("sent", [wire([Frame(Kind.CALL, 0, 1, 0, encode(CallMeta("echo", "id")), EVIL)]), EVIL])
def test_a_stranger_is_hung_up_on_unheard(sent: bytes, unpickled: list[str]) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.replica(Echo)
            unpickled.clear()
            caller = Caller(replica)
            caller.send(sent)
            assert caller.transport.closing
            assert unpickled == []
            await caller.leave()

    run(test())


def test_a_stranger_gets_no_memory() -> None:
    async def test() -> None:
        async with Scene() as scene:
            caller = Caller(await scene.replica(Echo))
            caller.send(HEADER.pack(2**31, 0, 0, Kind.HELLO, 0, 0))
            sent = 0
            while not caller.transport.closing:
                caller.send(bytes(1024))
                sent += 1024
                assert sent < 64 * 1024
            await caller.leave()

    run(test())


@pytest.mark.parametrize("flags", [0, END])
def test_a_body_that_was_not_granted_is_not_kept(flags: int) -> None:
    """More of it than the window, or anything after its end."""

    async def test() -> None:
        async with Scene() as scene:
            caller = Caller(await scene.replica(Echo))
            caller.send(GREETING + encode_frame(Kind.REQUEST, 1, encode(REQUEST)))
            piece = encode_frame(Kind.BODY, 1, b"", bytes(BODY_WINDOW_BYTES // 4), flags)
            taken = 0
            while not caller.transport.closing:  # no turn of the loop: user code has not read a byte
                caller.send(piece)
                taken += 1
                assert taken < 10
            assert taken == (2 if flags else 5)
            await caller.leave()

    run(test())


def test_a_stream_in_use_cannot_be_begun_again() -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica, _ = await scene.gated_replica(capacity=2)
            caller = Caller(replica)
            call = encode_frame(Kind.CALL, 1, encode(CallMeta("work", "id")), bytes(dump_value(((), {}))))
            caller.send(GREETING + call)
            assert not caller.transport.closing
            caller.send(call)
            assert caller.transport.closing
            await caller.leave()
            while replica.load:
                await asyncio.sleep(0)

    run(test())
