"""How a replica comes to be: constructed once, told with the user's traceback when that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from salver.wire.frames import Kind
from salver.wire.messages import (
    ErrorKind,
    decode_error,
)
from salver.wire.payload import dump_definition

from .scene import Peer, Scene, run, turns


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
            peer = await scene.peer(replica)
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


class ExitsLater:
    """Its constructor raises what would end the loop, or look like our own cancelling."""

    async def __init__(self, error: str) -> None:  # type: ignore[misc]
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "cancel": asyncio.CancelledError()}[error]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("exit", "the constructor raised SystemExit: 3"),
        ("interrupt", "the constructor raised KeyboardInterrupt"),
        ("cancel", "the constructor raised CancelledError"),
    ],
)
def test_a_constructor_that_raises_what_nobody_should_is_answered(error: str, message: str) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.bare_replica()
            answer = await replica.initialize(dump_definition((ExitsLater, (error,), {})), 1)
            meta = decode_error(answer.meta)
            assert (meta.kind, meta.message) == (ErrorKind.CONSTRUCTOR, message)
            assert "in __init__" in meta.traceback

    run(test())


def test_a_module_that_exits_when_it_is_imported_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_module.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def test() -> None:
        async with Scene() as scene:
            replica = await scene.bare_replica()
            answer = await replica.initialize(b"cleaving_module\nThing\n.", 1)
            meta = decode_error(answer.meta)
            assert meta.message == "the module of the deployment raised SystemExit: 4"
            assert 'leaving_module.py", line 2' in meta.traceback

    run(test())
