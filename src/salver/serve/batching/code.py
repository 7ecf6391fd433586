"""A function that takes lists, and everything about it that outlives the queues of its calls."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from types import MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

from salver.serve.batching.call import Call
from salver.serve.batching.limits import BatchLimits
from salver.serve.batching.plan import Pace
from salver.serve.batching.record import BatchRecord

logger = logging.getLogger("salver.serve")

CODE_ATTRIBUTE = "__salver_batched_code__"
"""Of the function that the decorator returns, and of what ``functools.wraps`` makes of that."""

_BATCHES_REMEMBERED = 128
_DECORATORS_FOLLOWED = 32


class BatchedCode:
    """What ``serve.batch`` was applied to. Pickled by value (code of ``__main__``), it arrives without a past.

    Args:
        function: takes lists, returns a list (``async def``) or yields lists (an async generator function).
        limits: shared with everyone who batches for it.
        batch_size_fn: the weight of a list of items; None is their number.
        streams: whether it is a generator function.
        isolate_errors: whether a batch that raises is halved, to find out for which item it does.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        limits: BatchLimits,
        batch_size_fn: Callable[[list[Any]], int] | None,
        *,
        streams: bool,
        isolate_errors: bool,
    ) -> None:
        self.function = function
        self.limits = limits
        self.batch_size_fn = batch_size_fn
        self.streams = streams
        self.isolate_errors = isolate_errors
        self._forget_the_past()

    def _forget_the_past(self) -> None:
        self.pace = Pace()
        self.history: deque[BatchRecord] = deque(maxlen=_BATCHES_REMEMBERED)
        self._is_method_of: WeakKeyDictionary[type, bool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        past = {"pace", "history", "_is_method_of"}
        return {name: value for name, value in vars(self).items() if name not in past}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_the_past()

    @property
    def name(self) -> str:
        return self.function.__name__

    def recent_batches(self) -> tuple[BatchRecord, ...]:
        return tuple(self.history)

    def is_method_call(self, args: tuple[Any, ...]) -> bool:
        """Whether the first argument is the object (or class) whose method this is, rather than an item.

        The decorator sees a function in either case, and a method's first call comes with its class long made.
        """
        if not args:
            return False
        first: object = args[0]
        cls = type(first)
        if isinstance(first, type):
            return self._is_in(cast("type[Any]", first), as_class_method=True)
        known = self._is_method_of.get(cls)
        if known is None:
            known = self._is_method_of[cls] = self._is_in(cls, as_class_method=False)
        return known

    def _is_in(self, cls: type[Any], *, as_class_method: bool) -> bool:
        """Base classes count, and names do not: ``super().predict(item)`` is a call of a method, too."""
        members = (member for base in cls.__mro__ for member in vars(base).values())
        return any(
            isinstance(member, classmethod) == as_class_method
            and not isinstance(member, staticmethod)
            and batched_code(member) is self
            for member in members
        )

    def weigh(self, calls: Sequence[Call]) -> float:
        """What ``batch_size_fn`` makes of these together; what it raises for is too heavy."""
        assert self.batch_size_fn is not None
        try:
            return self.batch_size_fn([call.item for call in calls])
        except Exception:
            logger.exception("batch_size_fn of %s failed for %d items", self.name, len(calls))
            return inf

    def check_weight(self, call: Call) -> None:
        """Raises RuntimeError when no batch can hold the call, and whatever ``batch_size_fn`` raises for it."""
        if self.batch_size_fn is None:
            return
        weight = self.batch_size_fn([call.item])
        if weight > self.limits.max_batch_size:
            raise RuntimeError(
                "Size of item is greater than max_batch_size. Please increase the max_batch_size or check the "
                f"implementation of the batch_size_fn. (The item weighs {weight}, "
                f"max_batch_size={self.limits.max_batch_size}.)"
            )


def batched_code(member: object) -> BatchedCode | None:
    """What ``serve.batch`` knows of a function or method, also when it was decorated further; None if nothing."""
    for _ in range(_DECORATORS_FOLLOWED):
        attributes: dict[str, Any] = getattr(member, "__dict__", {})
        code = attributes.get(CODE_ATTRIBUTE)
        if isinstance(code, BatchedCode):
            return code
        if isinstance(member, staticmethod | classmethod | MethodType):
            member = cast("object", member.__func__)
        elif "__wrapped__" in attributes:
            member = attributes["__wrapped__"]
        else:
            break
    return None


def batched_functions(target: Callable[..., Any]) -> list[BatchedCode]:
    """Those that a deployment's class has or inherits, or that its function is."""
    if not inspect.isclass(target):
        code = batched_code(target)
        return [] if code is None else [code]
    members = (inspect.getattr_static(target, name, None) for name in dir(target))
    found = {id(code): code for member in members if (code := batched_code(member)) is not None}
    return list(found.values())
