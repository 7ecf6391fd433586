"""Many models on one replica: ``@serve.multiplexed`` turns a loader into a cache of what it loads (``model_cache``).

Routers learn which models a replica holds (``data.replica.models``) and prefer it for requests with that model id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast, overload

from salver.data.context import request_context
from salver.data.replica.models import models_of_this_replica
from salver.serve.model_cache import Loader, ModelCache


def get_multiplexed_model_id() -> str:
    """The model id of the current request, empty when it has none.

    HTTP clients send it in the header ``serve_multiplexed_model_id``, handles with
    ``handle.options(multiplexed_model_id=...)``. Requests that this one makes do not inherit it.
    """
    return request_context.get().multiplexed_model_id


@overload
def multiplexed(func: Loader) -> Loader: ...


@overload
def multiplexed(*, max_num_models_per_replica: int = 3) -> Callable[[Loader], Loader]: ...


def multiplexed(func: Loader | None = None, max_num_models_per_replica: int = 3) -> Any:
    """Cache what an asynchronous function or method loads by model id.

    The result is called with a model id, or without one for the id of the current request. A model's ``__del__``,
    which may be ``async``, is called once when the model is evicted or the replica ends; errors in it are logged.

    Args:
        func: takes one model id and returns the model.
        max_num_models_per_replica: how many models one replica keeps; -1 for any number.

    Raises:
        TypeError: ``func`` is not asynchronous, or takes something else than one model id; the limit is no integer.
        ValueError: the limit is 0 or negative, and not -1.
    """
    if type(max_num_models_per_replica) is not int:
        raise TypeError("max_num_models_per_replica must be an integer.")
    if max_num_models_per_replica != -1 and max_num_models_per_replica <= 0:
        raise ValueError("max_num_models_per_replica must be positive.")
    if func is None:
        return partial(_decorate, limit=max_num_models_per_replica)
    return _decorate(func, limit=max_num_models_per_replica)


def _decorate(func: Loader, limit: int) -> Loader:
    if not callable(func):
        raise TypeError("The `multiplexed` decorator must be used with a function or method.")
    if not inspect.iscoroutinefunction(func):
        raise TypeError("@serve.multiplexed can only be used to decorate async functions or methods.")
    parameters = list(inspect.signature(func).parameters)
    if len(parameters) not in (1, 2):  # two are those of a method
        raise TypeError(
            "@serve.multiplexed can only be used to decorate functions or methods "
            "with at least one 'model_id: str' argument."
        )
    id_name = parameters[-1]

    if len(parameters) == 1:

        @wraps(func)
        async def load_by_function(*args: Any, **kwargs: Any) -> Any:
            model_id = _model_id(args, kwargs, id_name)
            return await _cache_of_function(load_by_function, func, limit).get(model_id)

        return load_by_function

    @wraps(func)
    async def load_by_method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        model_id = _model_id(args, kwargs, id_name)
        return await _cache_of_method(self, func, limit).get(model_id)

    return load_by_method


def _model_id(args: tuple[Any, ...], kwargs: dict[str, Any], id_name: str) -> str:
    """The argument of a call, or what the request says. Raises TypeError and ValueError."""
    given = [*args, *(value for name, value in kwargs.items() if name == id_name)]
    if len(given) > 1 or len(given) < len(args) + len(kwargs):
        raise TypeError(
            "Functions decorated with `@serve.multiplexed` must take exactly one "
            "the multiplexed model ID (str), but got more than one arguments."
        )
    model_id = given[0] if given else get_multiplexed_model_id()
    if not isinstance(model_id, str):
        raise TypeError("The model ID must be a string.")
    if not model_id:
        raise ValueError("The model ID cannot be empty.")
    return model_id


_outside_replicas: dict[object, ModelCache] = {}


def _cache_of_function(key: object, load: Loader, limit: int) -> ModelCache:
    """A free function's, one in each replica; outside replicas, one for the function."""
    replica = models_of_this_replica()
    caches = _outside_replicas if replica is None else cast("dict[object, ModelCache]", replica.of_functions)
    cache = caches.get(key)
    if cache is None:
        cache = caches[key] = ModelCache(load, limit, replica)
    return cache


def _cache_of_method(owner: Any, func: Loader, limit: int) -> ModelCache:
    """A method's, kept in the object that it is called on."""
    name = f"_salver_models_of_{func.__qualname__}"
    cache = cast("dict[str, ModelCache]", vars(owner)).get(name)
    if cache is None:
        cache = ModelCache(partial(func, owner), limit, models_of_this_replica())
        object.__setattr__(owner, name, cache)
    return cache
