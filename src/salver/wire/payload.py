"""Python objects as bytes: the one module that may pickle.

Used only between our own processes of the same user, over sockets that only this user can open (see
``docs/design.md``, "No pickle from the network"). HTTP bytes never get here: they travel in frames of another kind.

Three kinds of payload:

* *values* (arguments, results): ``pickle`` protocol 5, out-of-band buffers kept apart so that a large array is
  copied as little as possible; cloudpickle when pickle cannot, or when it would refer to ``__main__``, which is
  another module on the other side;
* *exceptions*: the user's own class when it survives the journey, else nothing (the frame carries text as well);
* *definitions* (the user's class and its constructor arguments): cloudpickle, but a class that the decorator
  replaced by a ``Deployment`` in its module is still taken by reference, so that the replica imports the user's
  module instead of getting a copy of all its globals.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import import_module
from typing import Any, cast

import cloudpickle  # noqa: TID251  # pyright: ignore[reportMissingTypeStubs]

from salver.errors import SerializationError
from salver.wire.frames import Buffer

_cloudpickle: Any = cloudpickle  # it has no types
_CloudPickler = cast("type[pickle.Pickler]", _cloudpickle.Pickler)

_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
_MAIN = b"__main__"

Replace = Callable[[object], object]


def dump_value(value: object, name: str = "") -> Buffer:
    """Pickle an argument list or a result; an error calls it ``name``.

    Layout: u32 number of out-of-band buffers n, n × u64 sizes and one u64 for the pickle's, the pickle, the buffers.

    Raises:
        SerializationError: names the part of ``value`` that cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except Exception:  # noqa: BLE001 - pickle raises anything; cloudpickle decides
        data = b""
    if not data or _MAIN in data:
        buffers.clear()
        try:
            data = _cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        except Exception as error:
            raise SerializationError(_explain(value, error, name=name)) from error
    if not buffers:
        return b"\x00\x00\x00\x00" + data
    return _join(data, buffers)


def _join(data: bytes, buffers: list[pickle.PickleBuffer]) -> bytearray:
    views = [buffer.raw() for buffer in buffers]
    out = bytearray(_COUNT.pack(len(views)))
    for view in views:
        out += _SIZE.pack(view.nbytes)
    out += _SIZE.pack(len(data))
    out += data
    for view in views:
        out += view
    return out


def load_value(data: Buffer) -> Any:
    """Undo ``dump_value``. Raises SerializationError when the value cannot be rebuilt here."""
    try:
        count: int = _COUNT.unpack_from(data)[0]
        if count == 0:
            return pickle.loads(memoryview(data)[4:])
        view = memoryview(data)
        if view.readonly:  # a received array must be as writable as a sent one
            view = memoryview(bytearray(view))
        offset = 4
        sizes = cast("tuple[int, ...]", struct.unpack_from(f"<{count + 1}Q", view, offset))
        offset += 8 * (count + 1)
        end: int = offset + sizes[count]
        body = view[offset:end]
        buffers: list[memoryview] = []
        for size in sizes[:count]:
            buffers.append(view[end : end + size])
            end += size
        return pickle.loads(body, buffers=buffers)
    except Exception as error:
        raise SerializationError(f"cannot rebuild a received value here: {_describe(error)}") from error


def dump_exception(error: BaseException) -> bytes:
    """Pickle a user's exception, or give ``b""`` when it would not survive the journey."""
    try:
        data = _cloudpickle.dumps(error, protocol=5)
        if isinstance(pickle.loads(data), BaseException):
            return data
    except Exception:  # noqa: BLE001 - user classes may raise anything here; text is the fallback
        return b""
    return b""


def load_exception(data: Buffer) -> BaseException | None:
    """Undo ``dump_exception``; None when there is none or its class is missing here."""
    if not data:
        return None
    try:
        error = pickle.loads(data)
    except Exception:  # noqa: BLE001 - as above
        return None
    return error if isinstance(error, BaseException) else None


def dump_definition(value: object, replace: Replace | None = None) -> bytes:
    """Pickle code and constructor arguments.

    Args:
        replace: called with every object met; what it returns is pickled instead (itself: no change).

    Raises:
        SerializationError: names the part that cannot be pickled.
    """
    try:
        return _dump_definition(value, replace)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(_explain(value, error, replace)) from error


def load_definition(data: bytes) -> Any:
    """Undo ``dump_definition``. Errors of the user's modules while they are imported come out as they are."""
    return pickle.loads(data)


def _dump_definition(value: object, replace: Replace | None) -> bytes:
    out = io.BytesIO()
    _DefinitionPickler(out, replace).dump(value)
    return out.getvalue()


class _DefinitionPickler(_CloudPickler):
    def __init__(self, file: io.BytesIO, replace: Replace | None) -> None:
        super().__init__(file, protocol=5)
        self._replace = replace

    def reducer_override(self, obj: Any) -> Any:
        if self._replace is not None:
            replacement = self._replace(obj)
            if replacement is not obj:
                return _identity, (replacement,)
        if isinstance(obj, type) or callable(obj):
            place = _wrapped_place(obj)
            if place is not None:
                return _import_wrapped, place
        return cast(Any, super()).reducer_override(obj)


def _identity(value: object) -> object:
    return value


def _wrapped_place(obj: Any) -> tuple[str, str] | None:
    """Module and qualified name under which an importable module keeps a wrapper around ``obj``."""
    module_name: Any = getattr(obj, "__module__", None)
    qualname: Any = getattr(obj, "__qualname__", None)
    if not isinstance(module_name, str) or not isinstance(qualname, str) or module_name == "__main__":
        return None
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__spec__", None) is None:
        return None
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is not obj and getattr(found, "func_or_class", None) is obj:
        return module_name, qualname
    return None


def _import_wrapped(module_name: str, qualname: str) -> Any:
    found: Any = import_module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.func_or_class


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _explain(value: object, error: BaseException, replace: Replace | None = None, name: str = "") -> str:
    path, culprit = find_unpicklable(value, replace)
    where = f"{name}{path} " if name or path else ""
    return f"{where}cannot be pickled: {type(culprit).__module__}.{type(culprit).__qualname__} ({_describe(error)})"


def find_unpicklable(
    value: object, replace: Replace | None = None, path: str = "", depth: int = 6
) -> tuple[str, object]:
    """The deepest part of ``value`` that cannot be pickled by itself, with its path (``['model'].lock``)."""
    for step, part in _parts(value):
        if depth and not _picklable(part, replace):
            return find_unpicklable(part, replace, path + step, depth - 1)
    return path, value


def _parts(value: Any) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return [(f"[{key!r}]", item) for key, item in items.items()]
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes | bytearray | memoryview):
        members = cast("Sequence[object]", value)
        return [(f"[{index}]", item) for index, item in enumerate(members)]
    attributes: Any = getattr(cast(Any, value), "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, type):
        named = cast("dict[str, object]", attributes)
        return [(f".{name}", item) for name, item in named.items()]
    return []


def _picklable(value: object, replace: Replace | None) -> bool:
    try:
        _dump_definition(value, replace)
    except Exception:  # noqa: BLE001 - any failure means no
        return False
    return True
