"""Calls of chosen replicas, and of all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from e2e.handle_scene import WITHIN_S, Run, run
from salver import serve
from salver.serve.exceptions import DeploymentUnavailableError
from salver.serve.handle import DeploymentHandle

__all__ = ["run"]


@serve.deployment(num_replicas=2, max_ongoing_requests=2)
class Shelf:
    """Knows which replica it is."""

    def __init__(self) -> None:
        self.id = serve.get_replica_context().replica_id.unique_id
        self.held: list[str] = []

    async def which(self) -> str:
        return self.id

    async def hold(self, book: str) -> str:
        self.held.append(book)
        return self.id

    async def held_here(self) -> list[str]:
        return self.held

    async def fail_on(self, replica_id: str) -> str:
        if replica_id == self.id:
            raise ValueError(f"not in {replica_id}")
        return self.id

    async def spell(self, word: str) -> Any:
        for letter in word:
            yield letter


@serve.deployment
class Librarian:
    """Does inside a replica what the tests do outside."""

    def __init__(self, shelf: DeploymentHandle[Any]) -> None:
        self.shelf = shelf

    async def choose_and_dispatch(self) -> tuple[str, str]:
        async with self.shelf.choose_replica() as selection:
            return selection.replica_id, await self.shelf.which.dispatch(selection)

    async def ask_all(self) -> list[str]:
        return await self.shelf.broadcast("which")


@pytest.fixture
def shelf(run: Run) -> DeploymentHandle[Any]:
    return run(Shelf.bind())


def test_a_dispatched_call_runs_in_the_chosen_replica(shelf: DeploymentHandle[Any]) -> None:
    async def dispatch() -> None:
        for _ in range(6):
            async with shelf.choose_replica("anything", key=1) as selection:
                assert (selection.address, selection.port) == ("127.0.0.1", None)
                assert await shelf.which.dispatch(selection) == selection.replica_id

    asyncio.run(dispatch())


def test_a_dispatched_call_may_stream_and_take_responses(shelf: DeploymentHandle[Any]) -> None:
    async def dispatch() -> None:
        async with shelf.choose_replica() as selection:
            stream = shelf.options(method_name="spell", stream=True).dispatch(selection, "abc")
            assert [letter async for letter in stream] == ["a", "b", "c"]
        async with shelf.choose_replica() as selection:
            assert await shelf.fail_on.dispatch(selection, shelf.held_here.remote()) == selection.replica_id

    asyncio.run(dispatch())


def test_places_are_spread_and_given_back(shelf: DeploymentHandle[Any]) -> None:
    async def choose() -> None:
        async with shelf.choose_replica() as first, shelf.choose_replica() as second:
            assert first.replica_id != second.replica_id
        for _ in range(10):  # far more than there are places, were they kept
            async with shelf.choose_replica(), shelf.choose_replica():
                pass

    shelf.broadcast("which").results(timeout_s=WITHIN_S)  # from now on there is a connection to each
    asyncio.run(choose())


def test_a_selection_is_good_for_one_call(shelf: DeploymentHandle[Any]) -> None:
    async def dispatch_twice() -> None:
        async with shelf.choose_replica() as selection:
            await shelf.which.dispatch(selection)
            with pytest.raises(RuntimeError, match="good for one call"):
                await shelf.which.dispatch(selection)
            with pytest.raises(ValueError, match="is no replica of default#Other"):
                DeploymentHandle[Any]("Other", "default").dispatch(selection)
        async with shelf.choose_replica() as selection:
            pass
        with pytest.raises(RuntimeError, match="good for one call"):
            await shelf.which.dispatch(selection)

    asyncio.run(dispatch_twice())


def test_a_broadcast_reaches_every_replica(shelf: DeploymentHandle[Any]) -> None:
    first = shelf.broadcast("hold", "atlas").results(timeout_s=WITHIN_S)
    assert len(set(first)) == 2

    async def again() -> list[str]:
        return await shelf.broadcast("hold", book="novel")

    assert sorted(asyncio.run(again())) == sorted(first)
    assert shelf.broadcast("held_here").results(timeout_s=WITHIN_S) == [["atlas", "novel"]] * 2


def test_failures_of_a_broadcast_are_raised_or_given(shelf: DeploymentHandle[Any]) -> None:
    one, other = shelf.broadcast("which").results(timeout_s=WITHIN_S)
    with pytest.raises(ValueError, match=f"not in {one}"):
        shelf.broadcast("fail_on", one).results(timeout_s=WITHIN_S)
    answers = shelf.broadcast("fail_on", one).results(timeout_s=WITHIN_S, return_exceptions=True)
    assert sorted(str(answer) for answer in answers) == sorted([f"not in {one}", other])

    async def gather() -> list[Any]:
        return await shelf.broadcast("fail_on", one).results_async(timeout_s=WITHIN_S, return_exceptions=True)

    assert sorted(str(answer) for answer in asyncio.run(gather())) == sorted([f"not in {one}", other])
    with pytest.raises(TypeError, match="takes values"):
        shelf.broadcast("hold", shelf.which.remote())


def test_replicas_choose_and_broadcast_too(run: Run) -> None:
    librarian = run(Librarian.bind(Shelf.bind()))
    chosen, answered = librarian.choose_and_dispatch.remote().result(timeout_s=WITHIN_S)
    assert chosen == answered
    assert len(set(librarian.ask_all.remote().result(timeout_s=WITHIN_S))) == 2


def test_nothing_can_be_chosen_of_what_is_not_there(shelf: DeploymentHandle[Any]) -> None:
    unknown: DeploymentHandle[Any] = DeploymentHandle("Nobody", "default")

    async def choose() -> None:
        async with unknown.choose_replica():
            raise AssertionError("there is no replica")

    with pytest.raises(DeploymentUnavailableError):
        asyncio.run(choose())
    with pytest.raises(DeploymentUnavailableError):
        unknown.broadcast("which").results(timeout_s=WITHIN_S)
