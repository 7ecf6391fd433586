"""Objects that fight back while they are pickled: one kind of error, of bounded length, that names the culprit."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from salver.errors import SerializationError
from salver.wire import payload
from salver.wire.culprit import find_unpicklable
from salver.wire.error_text import MESSAGE_LIMIT, bounded, text_of, type_name
from salver.wire.payload import dump_definition, dump_exception, dump_value, load_exception, load_value


class Raises:
    """Pickling it raises what it holds."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class RaisesThere:
    """Unpickling it raises what it holds."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getstate__(self) -> Any:
        return self.error

    def __setstate__(self, state: Any) -> None:
        raise state


EVERYTHING = [
    SystemExit(3),
    KeyboardInterrupt(),
    RecursionError("deep"),
    GeneratorExit(),
    MemoryError(),
    StopIteration(),
]


@pytest.fixture
def no_ctrl_c() -> Any:
    """As in a replica, and wherever an event loop runs: SIGINT is not Python's to raise."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("no_ctrl_c")
@pytest.mark.parametrize("error", EVERYTHING, ids=lambda error: type(error).__name__)
def test_whatever_pickling_raises_is_a_serialization_error(error: BaseException) -> None:
    for dump in (dump_value, dump_definition):
        with pytest.raises(SerializationError) as caught:
            dump({"model": [Raises(error)]})
        assert str(caught.value).startswith(f"['model'][0] cannot be pickled: {__name__}.Raises (")
    assert dump_exception(Exception(Raises(error))) == b""


@pytest.mark.usefixtures("no_ctrl_c")
@pytest.mark.parametrize("error", EVERYTHING, ids=lambda error: type(error).__name__)
def test_whatever_unpickling_raises_is_a_serialization_error(error: BaseException) -> None:
    data = bytes(dump_value(RaisesThere(error)))
    with pytest.raises(SerializationError, match=f"cannot rebuild a received value here: {type(error).__name__}"):
        load_value(data)
    assert load_exception(data[4:]) is None
    assert dump_exception(Exception(RaisesThere(error))) == b""


def test_ctrl_c_of_a_script_stays_one() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        dump_value(Raises(KeyboardInterrupt()))


class Lying:
    """Nothing that is asked of it through its attributes can be believed, or even asked."""

    lock: Any

    def __init__(self) -> None:
        object.__setattr__(self, "lock", threading.Lock())

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attributes")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> Any:
        raise RuntimeError("no truth")

    def __hash__(self) -> int:
        return 1


def test_the_search_asks_nothing_of_the_users_objects() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_value([1, {"a": Lying(), Lying(): 1}])
    assert str(caught.value).startswith("[1]['a'].lock cannot be pickled: _thread.lock")
    with pytest.raises(SerializationError, match=r"^\[<a Lying>\]\.lock cannot"):
        dump_value({Lying(): Lying()})


def test_the_first_bad_item_of_very_many_is_found_fast() -> None:
    values: list[object] = list(range(300_000))
    values[234_567] = threading.Lock()
    with pytest.raises(SerializationError, match=r"^\[234567\] cannot be pickled: _thread.lock"):
        dump_value(values)


def test_deep_nesting_ends_in_an_error() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match=r"^\[0\]\[0\]\[0\].* cannot be pickled: list"):
        dump_value(value)
    while value:  # so that this test is not the one that takes it apart recursively
        value = value.pop()


class Wordy(Exception):
    def __str__(self) -> str:
        return "x" * 50_000_000

    def __reduce__(self) -> Any:
        raise self

    __repr__ = __str__


class Silent(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class HugeKey(str):
    __slots__ = ()


def test_errors_have_a_bounded_length() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_value({"k" * 50_000_000: Wordy()})
    assert len(str(caught.value)) < 2000
    assert len(text_of(Wordy())) < MESSAGE_LIMIT + 100
    assert dump_exception(Exception("x" * 50_000_000)) == b""


def test_text_of_an_exception_always_exists_and_can_be_sent() -> None:
    assert text_of(Silent()) == "<Silent whose __str__ raises>"
    assert text_of(ValueError("\udc80")) == "\\udc80"
    assert bounded("abcdefgh", 4) == "ab … [4 characters left out] … gh"
    assert type_name(3) == "int"

    class Meta(type):
        @property
        def __module__(cls) -> Any:  # type: ignore[override]
            raise RuntimeError("no module")

    class Nameless(metaclass=Meta):
        pass

    assert "Nameless" in type_name(Nameless()) or "class" in type_name(Nameless())


def test_values_that_share_what_cannot_be_pickled_are_named_by_their_first_place() -> None:
    lock = threading.Lock()
    assert find_unpicklable({"a": 1, "b": (lock,), "c": lock}, lambda value: "lock" not in repr(value)) == (
        "['b'][0]",
        lock,
    )


def test_what_is_too_large_for_a_frame_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "_MOST_BYTES", 1000)
    with pytest.raises(SerializationError, match="a value of 5000 bytes is too large: 1000 travel at most"):
        payload.join(b"", [memoryview(bytes(5000))])
    with pytest.raises(SerializationError, match=r"a value of 20[0-9]+ bytes is too large"):
        dump_value(bytes(20_000))
    assert len(payload.join(b"", [memoryview(bytes(5000))], elsewhere_from=5000)) == 20
