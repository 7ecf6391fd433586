"""The models that one loader has loaded, no more than it may keep.

Each model id is loaded by a task of its own. Requests for a model that is being loaded wait for that task, requests
for other models are not held up, and a load goes on when the request that began it is cancelled. A load that fails
fails those who wait for it, and is forgotten.

When there are more models than ``max_num_models_per_replica``, the one that was asked for longest ago goes: first
among those that no running request has got, then among the others. A model goes out of the cache at once, but its
``__del__`` is not called while a request that asked for it still runs: the reference evicts models under the hands of
requests that use them. So for a while a replica may hold more models than it is allowed, by what running requests
have got; to wait instead would let two requests wait for each other's model. What nobody uses is unloaded before the
next model is loaded, to make room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from salver.data.replica.finalizer import finalize
from salver.data.replica.models import ReplicaModels

logger = logging.getLogger("salver.replica")

Loader = Callable[..., Awaitable[Any]]


class _Model:
    """One model in a cache.

    Attributes:
        loading: gives ``value``; None when it has.
        users: running requests that asked for it.
        evicted: no longer in the cache.
    """

    __slots__ = ("evicted", "loading", "users", "value")

    def __init__(self) -> None:
        self.loading: asyncio.Task[None] | None = None
        self.value: Any = None
        self.users = 0
        self.evicted = False


class ModelCache:
    """The models of one loader, on one event loop.

    Args:
        load: gives the model of an id.
        limit: how many models to keep, -1 for any number.
        replica: whom to tell, None outside replicas.
    """

    def __init__(self, load: Loader, limit: int, replica: ReplicaModels | None) -> None:
        self._load = load
        self._limit = limit
        self._replica = replica
        self._models: dict[str, _Model] = {}  # in the order in which they were asked for, longest ago first
        self._loading: set[asyncio.Task[None]] = set()
        self._unloading: set[asyncio.Task[None]] = set()
        if replica is not None:
            replica.add(self)

    @property
    def ids(self) -> Iterable[str]:
        return self._models

    async def get(self, model_id: str) -> Any:
        """The model, loaded if it is not there. Raises what its load raises."""
        model = self._models.pop(model_id, None)
        if model is None:
            model = self._models[model_id] = _Model()
            model.loading = asyncio.create_task(self._fill(model_id, model, self._evict(model)))
            self._loading.add(model.loading)
            model.loading.add_done_callback(self._loaded)
            self._tell()
        else:
            self._models[model_id] = model
        model.users += 1
        lent = self._replica is not None and self._replica.lend(partial(self._given_back, model))
        try:
            if model.loading is not None:
                await asyncio.shield(model.loading)
            return model.value
        finally:
            if not lent:
                self._given_back(model)

    async def unload(self) -> None:
        """Let go of every model, in use or not; what is being loaded is cancelled."""
        models, self._models = self._models, {}
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, *self._unloading, return_exceptions=True)
        for model in models.values():
            await _finalize(model)
        self._tell()

    async def _fill(self, model_id: str, model: _Model, to_go_first: list[asyncio.Task[None]]) -> None:
        try:
            if to_go_first:
                await asyncio.wait(to_go_first)
            try:
                model.value = await self._load(model_id)
            except (SystemExit, KeyboardInterrupt) as error:  # these end an event loop, and everything on it
                raise RuntimeError(f"loading model {model_id!r} raised {type(error).__name__}: {error}") from error
            model.loading = None
        except BaseException:
            if self._models.get(model_id) is model:
                del self._models[model_id]
                self._tell()
            raise
        if model.evicted and not model.users:
            self._start_unloading(model)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        """Those who wait for a load raise its error; it is no complaint of the loop's when all of them have left."""
        self._loading.discard(task)
        if not task.cancelled():
            task.exception()

    def _evict(self, newest: _Model) -> list[asyncio.Task[None]]:
        """Take out what is too much; returns the unloading of what nobody uses."""
        unloading: list[asyncio.Task[None]] = []
        while 0 < self._limit < len(self._models):
            others = [item for item in self._models.items() if item[1] is not newest]
            model_id, model = min(others, key=_reluctance)
            del self._models[model_id]
            model.evicted = True
            if not model.users and model.loading is None:
                unloading.append(self._start_unloading(model))
        return unloading

    def _given_back(self, model: _Model) -> None:
        """A request that asked for it has ended."""
        model.users -= 1
        if model.evicted and not model.users and model.loading is None:
            self._start_unloading(model)

    def _start_unloading(self, model: _Model) -> asyncio.Task[None]:
        task = asyncio.create_task(_finalize(model))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        return task

    def _tell(self) -> None:
        if self._replica is not None:
            self._replica.changed()


def _reluctance(item: tuple[str, _Model]) -> tuple[bool, bool]:
    """The lower, the sooner a model is evicted; of equals the first, which was asked for longest ago."""
    model = item[1]
    return model.loading is not None, model.users > 0


async def _finalize(model: _Model) -> None:
    """Let go of a model; what its ``__del__`` raises is logged."""
    value, model.value = model.value, None
    try:
        await finalize(value)
    except Exception:
        logger.exception("unloading a model failed")
