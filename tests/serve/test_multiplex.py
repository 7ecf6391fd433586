"""``@serve.multiplexed``: what is loaded when, what is evicted, and what becomes of it. Replicas are real ones."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest

from data.scene import RunningReplica, Scene, run, submit, turns
from salver import serve
from salver.data.context import RequestContext, request_context


class Store:
    """Where models come from, and what has become of them."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.opened: dict[str, asyncio.Event] = {}

    def hold(self, model_id: str) -> asyncio.Event:
        """From now on this model is loaded when the event is set."""
        return self.opened.setdefault(model_id, asyncio.Event())

    async def load(self, model_id: str, kind: Callable[[Store, str], Any] | None = None) -> Any:
        self.began.append(model_id)
        if model_id in self.opened:
            await self.opened[model_id].wait()
        if model_id.startswith("bad"):
            raise LookupError(f"there is no {model_id}")
        return (kind or Model)(self, model_id)


class Model:
    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name

    def __del__(self) -> None:
        self.store.ended.append(self.name)


class AsyncModel(Model):
    async def __del__(self) -> None:
        await asyncio.sleep(0)
        self.store.ended.append(self.name)


class Derived(Model):
    def __del__(self) -> None:
        super().__del__()
        self.store.ended.append(f"derived {self.name}")


class Angry(Model):
    def __del__(self) -> None:
        super().__del__()
        raise RuntimeError(f"{self.name} does not want to go")


def loader(store: Store, limit: int = 2, kind: Callable[[Store, str], Any] | None = None) -> Any:
    @serve.multiplexed(max_num_models_per_replica=limit)
    async def get_model(model_id: str) -> Any:
        return await store.load(model_id, kind)

    return get_model


async def settled(predicate: Callable[[], bool]) -> None:
    while not predicate():
        await asyncio.sleep(0.001)


# --- the decorator --------------------------------------------------------------------------------------


def test_only_asynchronous_functions_of_one_model_id() -> None:
    with pytest.raises(TypeError, match="can only be used to decorate async functions or methods"):

        @serve.multiplexed  # type: ignore[arg-type]
        def not_async(model_id: str) -> None: ...

    with pytest.raises(TypeError, match="at least one 'model_id: str' argument"):

        @serve.multiplexed
        async def no_argument() -> None: ...

    with pytest.raises(TypeError, match="at least one 'model_id: str' argument"):

        @serve.multiplexed
        async def three_arguments(self: object, model_id: str, more: str) -> None: ...

    with pytest.raises(TypeError, match="must be used with a function or method"):
        serve.multiplexed("load")  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (-2, ValueError), ("3", TypeError), (True, TypeError)])
def test_wrong_limits(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_num_models_per_replica must be"):
        serve.multiplexed(max_num_models_per_replica=limit)


def test_wrong_calls() -> None:
    async def test() -> None:
        get_model = loader(Store())
        with pytest.raises(TypeError, match="got more than one arguments"):
            await get_model("a", "b")
        with pytest.raises(TypeError, match="got more than one arguments"):
            await get_model(name="a")
        with pytest.raises(TypeError, match="must be a string"):
            await get_model(3)
        with pytest.raises(ValueError, match="cannot be empty"):
            await get_model()

    run(test())


def test_the_model_id_is_the_argument_or_that_of_the_request() -> None:
    async def test() -> None:
        get_model = loader(Store())
        assert serve.get_multiplexed_model_id() == ""
        request_context.set(RequestContext(multiplexed_model_id="of the request"))
        assert serve.get_multiplexed_model_id() == "of the request"
        assert (await get_model()).name == "of the request"
        assert (await get_model("given")).name == "given"
        assert (await get_model(model_id="named")).name == "named"

    run(test())


def test_it_looks_like_what_it_decorates() -> None:
    @serve.multiplexed
    async def get_model(model_id: str) -> str:
        """Loads."""
        return model_id

    assert (get_model.__name__, get_model.__doc__) == ("get_model", "Loads.")
    assert asyncio.iscoroutinefunction(get_model)


def test_each_method_of_each_object_has_its_own_models() -> None:
    class Base:
        def __init__(self) -> None:
            self.loaded: list[str] = []

        @serve.multiplexed(max_num_models_per_replica=1)
        async def first(self, model_id: str) -> str:
            self.loaded.append(f"base first {model_id}")
            return model_id

        @serve.multiplexed
        async def second(self, model_id: str) -> str:
            self.loaded.append(f"second {model_id}")
            return model_id

    class Derived(Base):
        @serve.multiplexed
        async def first(self, model_id: str) -> str:
            self.loaded.append(f"first {model_id}")
            return await super().first(model_id)

    async def test() -> None:
        one, other = Derived(), Derived()
        for each in (one, one, other):
            await each.first("a")
            await each.second("a")
        assert one.loaded == other.loaded == ["first a", "base first a", "second a"]

    run(test())


# --- loading --------------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_for_all_who_ask_and_holds_up_nobody_else() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store)
        slow = store.hold("slow")
        await get_model("quick")
        waiting = [asyncio.create_task(get_model("slow")) for _ in range(5)]
        await turns()
        assert (await get_model("quick")).name == "quick", "a model that is there, while another is loaded"
        assert (await get_model("other")).name == "other", "a model that is not there either"
        slow.set()
        assert len({id(model) for model in await asyncio.gather(*waiting)}) == 1
        assert store.began == ["quick", "slow", "other"]

    run(test())


def test_a_load_that_fails_fails_those_who_wait_and_is_tried_again() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store)
        bad = store.hold("bad")
        waiting = [asyncio.create_task(get_model("bad")) for _ in range(3)]
        await turns()
        bad.set()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, LookupError)
        with pytest.raises(LookupError):
            await get_model("bad")
        assert store.began == ["bad", "bad"]

    run(test())


def test_a_load_goes_on_when_the_request_that_began_it_is_cancelled() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store)
        slow, bad = store.hold("slow"), store.hold("bad")
        for model_id in ("slow", "bad"):
            first = asyncio.create_task(get_model(model_id))
            await turns()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(get_model("slow"))
        slow.set()
        bad.set()  # nobody is left to hear of its failure, which is no complaint of the loop's
        assert (await second).name == "slow"
        await turns()
        assert store.began == ["slow", "bad"]

    run(test())


def test_a_loader_that_exits_fails_its_request_and_not_the_loop() -> None:
    async def test() -> None:
        @serve.multiplexed
        async def get_model(model_id: str) -> None:
            raise SystemExit(3)

        with pytest.raises(RuntimeError, match="loading model 'a' raised SystemExit: 3"):
            await get_model("a")

    run(test())


# --- eviction -------------------------------------------------------------------------------------------


def test_the_model_asked_for_longest_ago_is_evicted() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=2)
        for model_id in ("a", "b", "a", "c"):
            await get_model(model_id)
        assert store.ended == ["b"], "before the next one was loaded"
        await get_model("a")
        assert store.began == ["a", "b", "c"]

    run(test())


def test_any_number_of_models() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=-1)
        for number in [*range(50), *range(50)]:
            await get_model(f"model-{number}")
        assert len(store.began) == 50
        assert store.ended == []

    run(test())


def test_a_model_that_is_evicted_while_it_is_loaded_is_finalized_when_it_has_been() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=1)
        slow = store.hold("slow")
        first = asyncio.create_task(get_model("slow"))
        await turns()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await get_model("b")).name == "b"
        slow.set()
        await settled(lambda: store.ended == ["slow"])
        waiting = [asyncio.create_task(get_model(model_id)) for model_id in ("c", "d", "e")]
        assert [model.name for model in await asyncio.gather(*waiting)] == ["c", "d", "e"]

    run(test())


@pytest.mark.parametrize("kind", [Model, AsyncModel])
def test_an_evicted_model_is_finalized_once(kind: type[Model]) -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=1, kind=kind)
        kept = await get_model("a")
        await get_model("b")
        assert store.ended == ["a"], "though somebody holds it"
        del kept
        await get_model("c")
        gc.collect()
        assert store.ended == ["a", "b"]

    run(test())


def test_objects_that_nobody_finalized_are_finalized_by_python() -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=1, kind=Derived)
        await get_model("a")
        await get_model("b")
        assert store.ended == ["a", "derived a"]
        Derived(store, "own")
        Model(store, "base")
        gc.collect()
        assert store.ended == ["a", "derived a", "own", "derived own", "base"]

    run(test())


def test_what_a_finalizer_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        store = Store()
        get_model = loader(store, limit=1, kind=Angry)
        await get_model("a")
        with caplog.at_level(logging.ERROR, "salver.replica"):
            assert (await get_model("b")).name == "b"
        assert store.ended == ["a"]
        assert "a does not want to go" in caplog.text

    run(test())


def test_models_of_any_type() -> None:
    async def test() -> None:
        values: dict[str, Any] = {"none": None, "number": 1, "type": int, "generator": (each for each in ())}

        @serve.multiplexed(max_num_models_per_replica=1)
        async def get_model(model_id: str) -> Any:
            return values[model_id]

        for model_id, value in values.items():
            assert await get_model(model_id) is value

    run(test())


# --- in a replica ---------------------------------------------------------------------------------------

STORES: dict[str, Store] = {}


@serve.multiplexed(max_num_models_per_replica=1)
async def of_function(model_id: str) -> Any:
    return await STORES["here"].load(model_id)


class Server:
    """What a request does with its model lasts until the test sets ``model.done``."""

    async def __init__(self, *preloaded: str) -> None:
        self.store = STORES["here"]
        self.done: dict[str, asyncio.Event] = {}
        for model_id in preloaded:
            await self.get_model(model_id)

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> Any:
        return await self.store.load(model_id)

    async def use(self, model_id: str) -> list[str]:
        """The models that had been finalized when this request was done with its own."""
        task = asyncio.create_task(self.get_model(model_id))  # as asyncio.wait_for does before Python 3.12
        model = await task
        await self.store.hold(f"use {model.name}").wait()
        return list(self.store.ended)

    async def pid_of_function(self, model_id: str) -> int:
        return id(await of_function(model_id))


@pytest.fixture
def store() -> Any:
    STORES["here"] = store = Store()
    yield store
    del STORES["here"]


async def server(scene: Scene, *preloaded: str) -> RunningReplica:
    return await scene.replica(Server, *preloaded, capacity=10)


def test_a_model_in_use_is_finalized_when_its_last_request_has_ended(store: Store) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await server(scene)
            router = scene.router(replica.route, capacity=10)
            first, second = submit(router, "use", "a"), submit(router, "use", "a")
            await settled(lambda: "use a" in store.opened)
            third = submit(router, "use", "b")
            await settled(lambda: "use b" in store.opened)
            assert store.ended == []
            assert replica.replica._models.ids == ("b",), "no longer for new requests"
            store.hold("use a").set()
            assert [await first.outcome, await second.outcome] == [[], []]
            await settled(lambda: store.ended == ["a"])
            store.hold("use b").set()
            assert await third.outcome == ["a"]
            assert await submit(router, "use", "b").outcome == ["a"]
            assert store.began == ["a", "b"]

    run(test())


def test_a_model_whose_request_was_cancelled_is_not_in_use(store: Store) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await server(scene)
            router = scene.router(replica.route, capacity=10)
            call = submit(router, "use", "a")
            await settled(lambda: "use a" in store.opened)
            assert call.link is not None
            call.link.cancel(call.stream)
            await settled(lambda: replica.load == 0)
            store.hold("use b").set()
            assert await submit(router, "use", "b").outcome == ["a"]

    run(test())


def test_models_loaded_by_the_constructor_are_in_use_by_nobody(store: Store) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await server(scene, "a", "b")
            assert store.ended == ["a"]
            assert replica.replica._models.ids == ("b",)
            router = scene.router(replica.route, capacity=10)
            store.hold("use c").set()
            assert await submit(router, "use", "c").outcome == ["a", "b"]

    run(test())


def test_a_replica_that_ends_unloads_its_models(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replica = await server(scene)
            router = scene.router(replica.route, capacity=10)
            store.hold("use a").set()
            await submit(router, "use", "a").outcome
            slow = store.hold("slow")
            loading = submit(router, "use", "slow")
            await settled(lambda: "slow" in store.began)
            await replica.replica.close()
            assert isinstance(await asyncio.wait_for(_failure(loading), 20), Exception)
            assert store.ended == ["a"]
            assert not slow.is_set()
            assert "were not unloaded" not in caplog.text, "what is being loaded is cancelled"
            await replica.replica.close()

    run(test())


async def _failure(call: Any) -> BaseException | None:
    await asyncio.wait({call.outcome})
    return call.outcome.exception()


def test_replicas_of_one_process_do_not_share_the_models_of_a_function(store: Store) -> None:
    async def test() -> None:
        async with Scene() as scene:
            replicas = [await server(scene) for _ in range(2)]
            ids: set[int] = set()
            for replica in replicas:
                router = scene.router(replica.route, capacity=10)
                ids |= {await submit(router, "pid_of_function", "a").outcome for _ in range(3)}
            assert len(ids) == 2
            await replicas[0].replica.close()
            assert store.ended == ["a"]

    run(test())
