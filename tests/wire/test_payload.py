"""Pickled values, exceptions and definitions: what arrives is what was sent, and failures name their culprit."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle  # noqa: TID251 - the tests of the one module that may pickle
import numpy as np
import pytest

from salver.errors import SerializationError
from salver.wire.payload import (
    dump_definition,
    dump_exception,
    dump_plain_arguments,
    dump_value,
    load_definition,
    load_exception,
    load_value,
)


def through(value: object) -> Any:
    """``value`` as the other side gets it: the bytes of a socket are read-only."""
    return load_value(bytes(dump_value(value)))


# --- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        ((1, "two", b"three"), {"k": [4.0, {5}]}),
        b"",
        "x" * 100_000,
        b"\x00" * 1_000_000,
        {"deep": [[[(None,)]]]},
        range(3),
        ValueError("a value like any other"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_round_trip(value: object) -> None:
    result = through(value)
    assert type(result) is type(value)
    assert result == value or repr(result) == repr(value)


class Text(str):
    """A class of a user's: it must come back as itself."""

    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [True, 0, -1, 2**64 - 1, 2**64, -(2**63) - 1, 1.5, -0.0, float("inf"), "", "\ud800", "\0", Text("t"), b"\xff"],
    ids=repr,
)
def test_plain_values_and_those_that_only_look_plain_round_trip(value: object) -> None:
    for sent in (value, ((value,), {"k": value})):
        got = through(sent)
        assert repr(got) == repr(sent)
    args, kwargs = load_value(dump_plain_arguments((value,), {"k": value}) or dump_value(((value,), {"k": value})))
    for got in (*args, *kwargs.values()):
        assert (type(got), repr(got)) == (type(value), repr(value))


@pytest.mark.parametrize("rest", [b"", b"\xc1", b"\x92\x90", b"\xd9\xffshort"])
def test_plain_rubbish_is_a_serialization_error(rest: bytes) -> None:
    with pytest.raises(SerializationError):
        load_value(b"\xff\xff\xff\xff" + rest)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.int64).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24)[::2],
        np.zeros((0, 3)),
        np.array("text"),
        np.array([{"a": 1}, None], dtype=object),
        np.frombuffer(b"read-only", dtype=np.uint8),
    ],
    ids=["c-order", "fortran-order", "strided", "empty", "text", "objects", "read-only"],
)
def test_arrays_round_trip(array: np.ndarray[Any, Any]) -> None:
    result = through(array)
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert np.array_equal(result, array)


def test_large_arrays_travel_out_of_band_and_arrive_writable() -> None:
    first = np.arange(1_000_000, dtype=np.float32)
    second = np.full((100, 100), 7, dtype=np.uint8)
    data = bytes(dump_value(((first, second), {"again": first})))
    assert data[:4] == (2).to_bytes(4, "little"), "two buffers, although one is sent twice"
    assert len(data) < first.nbytes + second.nbytes + 1000
    (a, b), kwargs = load_value(data)
    assert np.array_equal(a, first)
    assert np.array_equal(b, second)
    assert kwargs["again"] is a
    a[0] = b[0, 0] = 99
    assert first[0] == 0
    assert second[0, 0] == 7
    assert load_value(data)[0][0][0] == 0, "the received bytes are not written to"


def test_values_can_be_loaded_from_a_view() -> None:
    data = b"header" + bytes(dump_value(np.arange(3)))
    assert list(load_value(memoryview(data)[6:])) == [0, 1, 2]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00" * 4, b"\x01\x00\x00\x00", b"\xff" * 40])
def test_damaged_values_are_serialization_errors(data: bytes) -> None:
    with pytest.raises(SerializationError, match="cannot rebuild a received value here"):
        load_value(data)


def test_every_cut_of_a_value_is_a_serialization_error() -> None:
    data = bytes(dump_value({"array": np.arange(4), "text": "t"}))
    for size in range(len(data) - 1):
        with pytest.raises(SerializationError):
            load_value(data[:size])


def run_python(code: str, *arguments: str, cwd: Path, data: bytes = b"") -> bytes:
    """Run ``code`` in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, input=data, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


DUMP_MAIN = """
import sys
from salver.wire.payload import dump_value

class Point:
    def __init__(self, x): self.x = x
    def double(self): return helper(self.x)

def helper(x): return 2 * x

sys.stdout.buffer.write(bytes(dump_value((Point(21), helper, lambda: helper(4)))))
"""

LOAD_MAIN = """
import sys
from salver.wire.payload import load_value
point, function, small = load_value(sys.stdin.buffer.read())
print(point.double(), function(3), small(), hasattr(sys.modules["__main__"], "Point"))
"""


def test_what_main_defines_is_sent_by_value(tmp_path: Path) -> None:
    data = run_python(DUMP_MAIN, cwd=tmp_path)
    assert run_python(LOAD_MAIN, cwd=tmp_path, data=data).split() == [b"42", b"6", b"8", b"False"]


def test_functions_without_a_name_are_sent_by_value() -> None:
    factor = 3
    assert through(lambda x: x * factor)(5) == 15


# --- what cannot be pickled -----------------------------------------------------------------------------


class Holder:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda lock: lock, ""),
        (lambda lock: [1, (2, lock)], "[1][1]"),
        (lambda lock: {"model": Holder(lock=lock, name="n")}, "['model'].lock"),
        (lambda lock: Holder(inner=Holder(parts=[None, {"k": lock}])), ".inner.parts[1]['k']"),
    ],
    ids=["itself", "sequences", "attributes", "mixed"],
)
def test_the_part_that_cannot_be_pickled_is_named_by_its_path(make: Any, path: str) -> None:
    value = make(threading.Lock())
    for dump in (dump_value, dump_definition):
        with pytest.raises(SerializationError) as caught:
            dump(value)
        expected = f"{path} cannot be pickled: _thread.lock" if path else "cannot be pickled: _thread.lock"
        assert str(caught.value).startswith(expected)


def test_the_search_for_the_culprit_ends_in_deep_values() -> None:
    value: object = threading.Lock()
    for _ in range(50):
        value = [value]
    with pytest.raises(SerializationError, match="cannot be pickled"):
        dump_value(value)


def test_an_object_whose_pickling_raises_is_named() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError("not today")

    with pytest.raises(
        SerializationError, match=r"\[0\] cannot be pickled: .*Refuses \(ZeroDivisionError: not today\)"
    ):
        dump_value([Refuses()])


def test_a_value_whose_class_is_missing_on_the_other_side_says_so(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("class Thing: pass\n")
    data = run_python(
        "import sys, only_here\nfrom salver.wire.payload import dump_value\n"
        "sys.stdout.buffer.write(bytes(dump_value(only_here.Thing())))",
        cwd=tmp_path,
    )
    with pytest.raises(SerializationError, match="ModuleNotFoundError: No module named 'only_here'"):
        load_value(data)


# --- exceptions -----------------------------------------------------------------------------------------


class NeedsTwo(Exception):
    """Pickles, but cannot be rebuilt: BaseException passes on only what it was given."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class BecomesAString(Exception):
    def __reduce__(self) -> Any:
        return str, ("not an exception",)


def test_exceptions_round_trip_with_their_attributes() -> None:
    error = KeyError("k")
    error.add_note("a note")
    result = load_exception(dump_exception(error))
    assert type(result) is KeyError
    assert result.args == ("k",)
    assert result.__notes__ == ["a note"]


def test_an_exception_of_a_local_class_survives() -> None:
    class Local(Exception):
        code = 7

    result = load_exception(dump_exception(Local("text")))
    assert type(result).__name__ == "Local"
    assert getattr(result, "code", None) == 7


@pytest.mark.parametrize("error", [NeedsTwo("a", "b"), HoldsALock(), BecomesAString()])
def test_exceptions_that_would_not_survive_are_not_sent(error: BaseException) -> None:
    assert dump_exception(error) == b""


def test_no_exception_comes_of_nothing_or_of_something_else() -> None:
    assert load_exception(b"") is None
    assert load_exception(b"rubbish") is None
    assert load_exception(cloudpickle.dumps("text")) is None
    assert load_exception(b"csalver_nowhere\nMissing\n.") is None


# --- definitions ----------------------------------------------------------------------------------------

MODULE = """
print("imported")
BIG = b"a global of the module" * 1000

class Deployment:
    def __init__(self, func_or_class): self.func_or_class = func_or_class

@Deployment
class Model:
    def __init__(self, scale): self.scale = scale
    def __call__(self, x): return self.scale * x + len(BIG) * 0

@Deployment
def function(x): return x + 1

class Outer:
    @Deployment
    class Inner:
        pass

class Plain:
    pass
"""

DUMP_MODULE = """
import sys, user_module
from salver.wire.payload import dump_definition
target = eval(sys.argv[1], vars(user_module))
data = dump_definition((target, (3,), {}))
assert b"a global of the module" not in data, "the module's globals were copied"
sys.stderr.write(str(len(data)))
open("definition", "wb").write(data)
"""

LOAD_MODULE = """
import sys
from salver.wire.payload import load_definition
assert "user_module" not in sys.modules
target, args, kwargs = load_definition(open("definition", "rb").read())
import user_module
print(target is eval(sys.argv[1], vars(user_module)), args, kwargs)
"""


@pytest.mark.parametrize(
    "target", ["Model.func_or_class", "function.func_or_class", "Outer.Inner.func_or_class", "Plain"]
)
def test_what_a_decorator_hid_in_an_importable_module_is_sent_by_reference(tmp_path: Path, target: str) -> None:
    (tmp_path / "user_module.py").write_text(MODULE)
    run_python(DUMP_MODULE, target, cwd=tmp_path)
    assert run_python(LOAD_MODULE, target, cwd=tmp_path) == b"imported\nTrue (3,) {}\n"


DUMP_DECORATED_MAIN = """
from salver.wire.payload import dump_definition

class Deployment:
    def __init__(self, func_or_class): self.func_or_class = func_or_class

OFFSET = 10

@Deployment
class Model:
    def __call__(self, x): return x + OFFSET

open("definition", "wb").write(dump_definition((Model.func_or_class, (), {})))
"""


def test_a_decorated_class_of_main_is_sent_by_value(tmp_path: Path) -> None:
    run_python(DUMP_DECORATED_MAIN, cwd=tmp_path)
    model, args, kwargs = load_definition((tmp_path / "definition").read_bytes())
    assert model()(5) == 15
    assert (args, kwargs) == ((), {})


def test_errors_of_the_users_module_come_out_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "user_module.py").write_text(MODULE)
    run_python(DUMP_MODULE, "Plain", cwd=tmp_path)
    (tmp_path / "user_module.py").write_text("1 / 0")
    code = (
        "from salver.wire.payload import load_definition\n"
        "try: load_definition(open('definition', 'rb').read())\n"
        "except ZeroDivisionError as error: print(error.__traceback__.tb_next is not None)"
    )
    assert run_python(code, cwd=tmp_path) == b"True\n"


class Bound:
    """Stands for what the graph replaces by a handle."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()  # would fail if it were pickled itself


def replace_bound(value: object) -> object:
    return ("handle", value.name) if isinstance(value, Bound) else value


def test_the_replace_hook_sees_nested_objects() -> None:
    a = Bound("a")
    data = dump_definition((dict, ([a, {"k": (Bound("b"), 1)}],), {"again": a}), replace_bound)
    assert load_definition(data) == (
        dict,
        ([("handle", "a"), {"k": (("handle", "b"), 1)}],),
        {"again": ("handle", "a")},
    )


def test_the_culprit_is_searched_with_the_replace_hook() -> None:
    with pytest.raises(SerializationError) as caught:
        dump_definition({"fine": Bound("a"), "bad": [threading.Lock()]}, replace_bound)
    assert str(caught.value).startswith("['bad'][0] cannot be pickled: _thread.lock")
