"""The methods of the user's object that nobody calls but the framework: all of them optional.

``reconfigure`` runs on the event loop, like the constructor. ``check_health`` and ``record_autoscaling_stats`` are
asked again and again: as ``def`` each call gets a thread of its own, because requests may have taken all of the pool,
and one that never returns must hold up neither the requests nor the end of the process.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, cast

import msgspec

from salver.data.context import ReplicaRank
from salver.data.own_thread import in_own_thread
from salver.data.replica.contained import contained
from salver.data.replica.user_code import is_async

_MOST_STATS = 1000
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class UserHooks:
    """The hooks of one user object.

    Attributes:
        checks_health, records_stats: whether it has the method.
        takes_rank: its ``reconfigure`` wants the replica's rank as well.
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        self.checks_health = _has(target, "check_health")
        self.records_stats = _has(target, "record_autoscaling_stats")
        self._rank_keyword, self.takes_rank = _rank_parameter(target)
        self._told: bytes | None = None
        """What ``reconfigure`` was called with last; None before, and after it has failed: nobody knows then."""

    async def reconfigure(self, user_config: Any, rank: ReplicaRank | None) -> None:
        """Call ``reconfigure`` when there is something new for it; whatever it raises comes out.

        Args:
            user_config: with None only those that take a rank are called.
        """
        place = None if rank is None or not self.takes_rank else rank.rank
        news = msgspec.msgpack.encode((user_config, place))  # the user may change what it was given
        if news == self._told:
            return
        self._told = None
        if user_config is not None or self.takes_rank:
            with contained("reconfigure"):
                await self._call_reconfigure(user_config, rank)
        self._told = news

    async def _call_reconfigure(self, user_config: Any, rank: ReplicaRank | None) -> None:
        reconfigure = self._target.reconfigure
        if not self.takes_rank:
            result = reconfigure(user_config)
        elif self._rank_keyword:
            result = reconfigure(user_config, rank=rank)
        else:
            result = reconfigure(user_config, rank)
        if inspect.isawaitable(result):
            await result

    async def check_health(self) -> None:
        """Returns when the object is well; whatever its ``check_health`` raises comes out."""
        with contained("check_health"):
            await _call(self._target.check_health)

    async def record_stats(self) -> dict[str, float]:
        """What ``record_autoscaling_stats`` says.

        Raises:
            TypeError, ValueError: it is no dict of names and finite numbers.
            BaseException: what it raises.
        """
        with contained("record_autoscaling_stats"):
            return _checked(await _call(self._target.record_autoscaling_stats))


async def _call(method: Callable[[], Any]) -> Any:
    result = method() if is_async(method) else await in_own_thread(method)
    return await result if inspect.isawaitable(result) else result


def _has(target: object, name: str) -> bool:
    """Whether the object or its class really has it: some have a ``__getattr__`` with an answer to everything."""
    return inspect.getattr_static(target, name, None) is not None


def _rank_parameter(target: object) -> tuple[bool, bool]:
    """Whether ``reconfigure`` takes the rank by its name, and whether it takes it at all."""
    if not _has(target, "reconfigure"):
        return False, False
    try:
        parameters = inspect.signature(cast(Any, target).reconfigure).parameters
    except (TypeError, ValueError):  # a C function tells nothing
        return False, False
    by_name = "rank" in parameters and parameters["rank"].kind is not inspect.Parameter.POSITIONAL_ONLY
    second = list(parameters.values())[1:2]  # with a default it may be anything of the user's own
    required = any(each.default is each.empty and each.kind in _POSITIONAL for each in second)
    return by_name, by_name or required


def _checked(stats: object) -> dict[str, float]:
    if not isinstance(stats, dict):
        raise TypeError(f"record_autoscaling_stats returned a {type(stats).__name__}, not a dict of numbers")
    found = cast("dict[object, object]", stats)
    if len(found) > _MOST_STATS:
        raise ValueError(f"record_autoscaling_stats returned {len(found)} numbers, at most {_MOST_STATS} are allowed")
    return {_name(name): _number(name, value) for name, value in found.items()}


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"record_autoscaling_stats returned a {type(name).__name__} as a name, not a str")
    return name


def _number(name: object, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"record_autoscaling_stats: {name!r} is a {type(value).__name__}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"record_autoscaling_stats: {name!r} is {number}, not a finite number")
    return number
