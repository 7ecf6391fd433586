"""Which multiplexed models a replica holds: told to its callers, lent to its requests, unloaded at its end.

The caches of models live in ``serve.multiplex``, on the user's side. What they share with the replica that they run
in is here: each replica has one ``ReplicaModels``, which code of its requests finds by the replica's id, since one
process may have several replicas (the memory engine). A replica without models pays nothing per request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol
from weakref import WeakSet

from salver.data.context import replica_identity
from salver.data.replica.scope import RequestScope, request_scope

logger = logging.getLogger("salver.replica")

_UNLOADED_WITHIN_S = 10.0


class ModelCache(Protocol):
    """Models that one decorated function has loaded."""

    @property
    def ids(self) -> Iterable[str]:
        """Those that are loaded or being loaded."""
        ...

    async def unload(self) -> None:
        """Let go of every model; raises nothing."""
        ...


class ReplicaModels:
    """The models of one replica.

    Args:
        on_change: told of the ids, sorted, at every change.
        is_running: whether a request has not ended; what works for several requests (a batch) may outlive its own.
    """

    def __init__(
        self, on_change: Callable[[tuple[str, ...]], None], is_running: Callable[[RequestScope], bool]
    ) -> None:
        self._on_change = on_change
        self._is_running = is_running
        self._replica_id = ""
        self._caches: WeakSet[ModelCache] = WeakSet()  # weak: a cache ends with the user's object that it belongs to
        self._lent: dict[RequestScope, list[Callable[[], None]]] = {}
        self.of_functions: dict[object, ModelCache] = {}
        """Caches of free functions, which are shared by all replicas of a process: here each replica has its own."""
        self.ids: tuple[str, ...] = ()

    def open(self, replica_id: str) -> None:
        """Be found by code that runs in this replica."""
        self._replica_id = replica_id
        _of_replica[replica_id] = self

    async def close(self) -> None:
        """Unload everything, for so long as that may take; may be called twice."""
        if _of_replica.get(self._replica_id) is self:
            del _of_replica[self._replica_id]
        caches = list(self._caches)
        if not caches:
            return
        try:
            async with asyncio.timeout(_UNLOADED_WITHIN_S):
                await asyncio.gather(*(cache.unload() for cache in caches))
        except TimeoutError:
            logger.warning("models were not unloaded within %g s", _UNLOADED_WITHIN_S)

    # --- for caches -------------------------------------------------------------------------------------

    def add(self, cache: ModelCache) -> None:
        self._caches.add(cache)

    def changed(self) -> None:
        """A cache has begun to load a model, or has let go of one."""
        ids = tuple(sorted({model_id for cache in self._caches for model_id in cache.ids}))
        if ids != self.ids:
            self.ids = ids
            self._on_change(ids)

    def lend(self, give_back: Callable[[], None]) -> bool:
        """Have ``give_back`` called when the current request has ended; False outside requests."""
        request = request_scope.get()
        if request is None or not self._is_running(request):
            return False
        self._lent.setdefault(request, []).append(give_back)
        return True

    # --- for the replica --------------------------------------------------------------------------------

    def request_ended(self, request: RequestScope) -> None:
        if self._lent:
            for give_back in self._lent.pop(request, ()):
                give_back()


_of_replica: dict[str, ReplicaModels] = {}


def models_of_this_replica() -> ReplicaModels | None:
    """Those of the replica that the current code runs in, None outside replicas."""
    identity = replica_identity.get()
    return _of_replica.get(identity.replica_id) if identity is not None else None
