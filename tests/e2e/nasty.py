"""Objects and exceptions that serving must survive, imported by the test and by its replicas."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

HUGE = 50_000_000


class RaisesWhenPickled:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __getstate__(self) -> Any:
        raise self.error("not today")


class RaisesWhenUnpickled:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __setstate__(self, state: Any) -> None:
        raise state["error"]("not here")


class Reduces:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not today")


class HugeRepr:
    """Cannot be pickled, and has far too much to say about it."""

    def __repr__(self) -> str:
        return "x" * HUGE

    def __reduce__(self) -> Any:
        raise TypeError(repr(self))


class EqualToEverything:
    """Like an array: comparing gives something that has no truth."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Hostile:
    """Every attribute is an error, and so is asking what it is."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class AnswersToEverything:
    """Has every attribute there is: also those that generators, awaitables and streams are known by."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def lone_generator() -> Iterator[int]:
    yield 1


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def coroutine() -> Any:
    async def soon() -> None:
        await asyncio.sleep(0)

    made = soon()
    weakref.finalize(made, lambda: None)
    return made


def open_file() -> Any:
    return open("/dev/null", "wb")


def weak_reference() -> Any:
    kept = HugeRepr()
    return weakref.ref(kept)


UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "generator": lone_generator,
    "frame": sys._getframe,
    "reduce raises": Reduces,
    "getstate raises SystemExit": lambda: RaisesWhenPickled(SystemExit),
    "getstate raises KeyboardInterrupt": lambda: RaisesWhenPickled(KeyboardInterrupt),
    "getstate raises RecursionError": lambda: RaisesWhenPickled(RecursionError),
    "getstate raises GeneratorExit": lambda: RaisesWhenPickled(GeneratorExit),
    "getstate raises CancelledError": lambda: RaisesWhenPickled(asyncio.CancelledError),
    "huge repr": HugeRepr,
    "deep": lambda: nested(100_000),
    "equal to everything": EqualToEverything,
    "hostile": Hostile,
    "answers to everything": AnswersToEverything,
    "weakref": weak_reference,
    "open file": open_file,
    "socket": socket.socket,
    "thread": lambda: threading.Thread(target=print),
    "context manager": lambda: contextlib.nullcontext(threading.Lock()),
}
"""What cannot be sent."""

UNLOADABLE: dict[str, Callable[[], Any]] = {
    "setstate raises SystemExit": lambda: RaisesWhenUnpickled(SystemExit),
    "setstate raises KeyboardInterrupt": lambda: RaisesWhenUnpickled(KeyboardInterrupt),
    "setstate raises CancelledError": lambda: RaisesWhenUnpickled(asyncio.CancelledError),
    "setstate raises StopIteration": lambda: RaisesWhenUnpickled(StopIteration),
}
"""What can be sent, and cannot be received."""


def local_class() -> Any:
    class Local:
        value = 7

    return Local()


HARMLESS: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda: 7,
    "local class": local_class,
    "module": lambda: threading,
    "an exception": lambda: ValueError("a value"),
}
"""What looks hard and arrives."""


# --- exceptions -------------------------------------------------------------------------------------------


class OtherArguments(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class HoldsALock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class ExitsWhenAsked(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class HugeText(Exception):
    def __str__(self) -> str:
        return "x" * HUGE


class HostileException(Exception):
    """``isinstance`` fails on it."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("no attributes")


class NothingCanBeSet(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("nothing can be set")


class ExitsWhenLoaded(Exception):
    def __setstate__(self, state: Any) -> None:
        raise SystemExit("not here")

    def __reduce__(self) -> Any:
        return type(self), self.args, {"state": 1}


def cyclic() -> BaseException:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    return first


def long_chain() -> BaseException:
    error: BaseException = ValueError("the first of many")
    for _ in range(5_000):
        following = ValueError("x" * 100)
        following.__context__ = error
        error = following
    return error


def class_of_nowhere() -> BaseException:
    """Pickled by reference to a module that the caller does not have."""
    from types import ModuleType

    module = sys.modules["only_in_the_replica"] = ModuleType("only_in_the_replica")
    exec("class Unheard(Exception): pass", module.__dict__)
    return module.Unheard("of")


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "other arguments": (lambda: OtherArguments("this", "that"), "OtherArguments: this and that"),
    "holds a lock": (lambda: HoldsALock("text"), "HoldsALock: text"),
    "no text": (NoText, "whose __str__ raises"),
    "exits when asked": (ExitsWhenAsked, "whose __str__ raises"),
    "huge text": (HugeText, "characters left out"),
    "huge argument": (lambda: ValueError("x" * HUGE), "characters left out"),
    "hostile class": (HostileException, "HostileException"),
    "no attributes": (NoAttributes, "NoAttributes"),
    "nothing can be set": (NothingCanBeSet, "NothingCanBeSet"),
    "exits when loaded": (lambda: ExitsWhenLoaded("text"), "ExitsWhenLoaded: text"),
    "cyclic cause": (cyclic, "first"),
    "long chain": (long_chain, "x" * 100),
    "class of nowhere": (class_of_nowhere, "Unheard: of"),
    "not UTF-8": (lambda: ValueError("\udc80"), "udc80"),
    "SystemExit": (lambda: SystemExit(3), "SystemExit: 3"),
    "KeyboardInterrupt": (lambda: KeyboardInterrupt("now"), "KeyboardInterrupt: now"),
    "GeneratorExit": (lambda: GeneratorExit("now"), "GeneratorExit"),
    "StopIteration": (lambda: StopIteration(3), "StopIteration"),
    "StopAsyncIteration": (lambda: StopAsyncIteration(3), "3"),
    "CancelledError": (lambda: asyncio.CancelledError("now"), "cancelled"),
    "a group": (lambda: BaseExceptionGroup("many", [SystemExit(1), ValueError(2)]), "many"),
    "RecursionError": (lambda: RecursionError("deep"), "deep"),
    "MemoryError": (lambda: MemoryError("full"), "full"),
}
"""What user code raises, and what must be in the text of what the caller gets."""
