"""Python objects as bytes: the one module that may pickle.

Used only between our own processes of the same user, over sockets that only this user can open (see
``docs/design.md``, "No pickle from the network"). HTTP bytes never get here: they travel in frames of another kind.

Three kinds of payload:

* *values* (arguments, results): ``pickle`` protocol 5, out-of-band buffers kept apart so that a large array is
  copied as little as possible; cloudpickle when pickle cannot, or when it would refer to ``__main__``, which is
  another module on the other side. How buffers travel is for the caller to decide (``data.shared_memory``).
  A *plain* value (None, a number, a string or bytes, of exactly these classes) is said in msgpack, which gives
  the same value for a third of the time, and so are arguments that are all plain;
* *exceptions*: the user's own class when it survives the journey, else nothing (the frame carries text as well);
* *definitions* (the user's class and its constructor arguments): cloudpickle, but a class that the decorator
  replaced by a ``Deployment`` in its module is still taken by reference, so that the replica imports the user's
  module instead of getting a copy of all its globals.

Pickling runs users' code (``__reduce__``, ``__getstate__``, ``__setstate__``), which may raise anything. All of it
becomes SerializationError: a SystemExit from there would end the event loop of whoever happens to unpickle.
"""

from __future__ import annotations

import copyreg
import io
import pickle  # noqa: TID251
import signal
import struct
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import NoneType
from typing import Any, TypeVar, cast

import cloudpickle  # noqa: TID251  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from salver.errors import SerializationError
from salver.wire.culprit import find_unpicklable
from salver.wire.error_text import describe, type_name
from salver.wire.frames import MAX_FRAME_BYTES, Buffer

_cloudpickle: Any = cloudpickle  # it has no types
_CloudPickler = cast("type[pickle.Pickler]", _cloudpickle.Pickler)

_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
_ELSEWHERE = 1 << 63
_NO_BUFFERS = b"\x00\x00\x00\x00"
_IS_PLAIN = b"\xff\xff\xff\xff"  # more buffers than there can be
_PLAIN_CLASSES = frozenset((NoneType, bool, int, float, str, bytes))
_NOT_AFTER_ALL = (OverflowError, UnicodeEncodeError, TypeError)
"""What msgpack cannot say and pickle can: an int of more than 64 bits, half a surrogate pair, a strange keyword."""

_encode_plain = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.msgpack.Decoder().decode
_MAIN = b"__main__"
_MOST_BYTES = MAX_FRAME_BYTES - 64 * 1024
_MOST_EXCEPTION_BYTES = 1024 * 1024
_modules = sys.modules
_dispatch_table: Any = pickle.Pickler.__dict__["dispatch_table"]
_reducers: dict[type, Callable[[Any], Any]] = {}

Replace = Callable[[object], object]
Joined = TypeVar("Joined")
TakeBuffer = Callable[[int], memoryview]
"""Gives the next buffer that travelled elsewhere, whose size must be this."""


def join(data: bytes, views: list[memoryview], elsewhere_from: int = sys.maxsize) -> bytearray:
    """The payload of a value with out-of-band buffers.

    Layout: u32 number of buffers n, n × u64 sizes and one u64 for the pickle's, the pickle, the buffers. A buffer of
    ``elsewhere_from`` bytes or more is left out, and its size has the highest bit set.

    Raises:
        SerializationError: too large for a frame.
    """
    sizes = [view.nbytes | _ELSEWHERE if view.nbytes >= elsewhere_from else view.nbytes for view in views]
    total = len(data) + sum(size for size in sizes if size < _ELSEWHERE)
    if total > _MOST_BYTES:
        raise _too_large(total)
    out = bytearray(_COUNT.pack(len(views)))
    for size in sizes:
        out += _SIZE.pack(size)
    out += _SIZE.pack(len(data))
    out += data
    for view in views:
        if view.nbytes < elsewhere_from:
            out += view
    return out


def _too_large(size: int) -> SerializationError:
    return SerializationError(
        f"a value of {size} bytes is too large: {_MOST_BYTES} travel at most, large arrays and tensors not counted"
    )


def dump_value(
    value: object, name: str = "", send_buffers: Callable[[bytes, list[memoryview]], Joined] = join
) -> bytes | Joined:
    """Pickle an argument list or a result; an error calls it ``name``.

    Args:
        send_buffers: makes the payload of a pickle and its out-of-band buffers, when there are any.

    Raises:
        SerializationError: names the part of ``value`` that cannot be pickled.
    """
    plain = dump_plain(value)
    if plain:
        return plain
    buffers: list[pickle.PickleBuffer] = []
    try:
        if "torch" in _modules:
            data = _dump_with_torch(value, buffers)
        else:
            data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except BaseException as error:  # noqa: BLE001 - pickle raises anything; cloudpickle decides
        _let_ctrl_c_through(error)
        data = b""
    if not data or _MAIN in data:
        buffers.clear()
        try:
            data = _dump_with_cloudpickle(value, buffers)
        except BaseException as error:
            _let_ctrl_c_through(error)
            raise SerializationError(_explain(value, error, name=name)) from error
    if not buffers:
        if len(data) > _MOST_BYTES:
            raise _too_large(len(data))
        return _NO_BUFFERS + data
    try:
        views = [buffer.raw() for buffer in buffers]
    except BufferError as error:
        raise SerializationError(f"{name or 'a value'} cannot be pickled: {describe(error)}") from error
    return send_buffers(data, views)


def dump_plain(value: object) -> bytes:
    """``dump_value`` of a plain value; empty when it is not one."""
    return _in_msgpack(value) if type(value) in _PLAIN_CLASSES else b""


def dump_plain_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """What ``dump_value((args, kwargs))`` is for when every argument is plain; empty when one is not.

    ``load_value`` gives a pair again, the first of which is a list.
    """
    for value in args:
        if type(value) not in _PLAIN_CLASSES:
            return b""
    for value in kwargs.values():
        if type(value) not in _PLAIN_CLASSES:
            return b""
    return _in_msgpack((args, kwargs))


def _in_msgpack(value: object) -> bytes:
    """Empty when msgpack cannot say it, or pickle should say that it is too large."""
    try:
        data = _IS_PLAIN + _encode_plain(value)
    except _NOT_AFTER_ALL:
        return b""
    return data if len(data) <= _MOST_BYTES else b""


def _dump_with_cloudpickle(value: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    out = io.BytesIO()
    pickler = _CloudPickler(out, protocol=5, buffer_callback=buffers.append)
    if "torch" in _modules:  # its own table is a class attribute, which hides the pickler's
        _dispatch_table.__set__(pickler, {**pickler.dispatch_table, **_tensor_reducers()})
    pickler.dump(value)
    return out.getvalue()


def _dump_with_torch(value: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    """Pickle; tensors by reducers of ours, given to this pickler alone: nobody else's pickles change."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out, protocol=5, buffer_callback=buffers.append)
    pickler.dispatch_table = {**copyreg.dispatch_table, **_tensor_reducers()}
    pickler.dump(value)
    return out.getvalue()


def _tensor_reducers() -> dict[type, Callable[[Any], Any]]:
    if not _reducers:
        from salver.wire.tensors import reducers

        _reducers.update(reducers(_modules, pickle.PickleBuffer))
    return _reducers


def _nothing_elsewhere(size: int) -> memoryview:
    raise ValueError(f"{size} bytes of it did not come")


def load_value(data: Buffer, take_buffer: TakeBuffer = _nothing_elsewhere) -> Any:
    """Undo ``dump_value``. Raises SerializationError when the value cannot be rebuilt here.

    Args:
        take_buffer: asked for the buffers that travelled elsewhere, in their order.
    """
    try:
        if data[3] == 0xFF:
            return _decode_plain(data[4:])
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
            if size < _ELSEWHERE:
                buffers.append(view[end : end + size])
                end += size
            else:
                buffers.append(take_buffer(size - _ELSEWHERE))
        return pickle.loads(body, buffers=buffers)
    except BaseException as error:
        raise SerializationError(f"cannot rebuild a received value here: {describe(error)}") from error


def _let_ctrl_c_through(error: BaseException) -> None:
    """Raise it again when it may be the user's own Ctrl-C, and not something that ``__getstate__`` raised."""
    if (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        raise error


def dump_exception(error: BaseException) -> bytes:
    """Pickle a user's exception, or give ``b""`` when it would not survive the journey or is over 1 MiB."""
    try:
        data = _cloudpickle.dumps(error, protocol=5)
        if len(data) <= _MOST_EXCEPTION_BYTES and isinstance(pickle.loads(data), BaseException):
            return data
    except BaseException:  # noqa: BLE001 - user classes may raise anything here; text is the fallback
        return b""
    return b""


def load_exception(data: Buffer) -> BaseException | None:
    """Undo ``dump_exception``; None when there is none or its class is missing here."""
    if not data:
        return None
    try:
        error = pickle.loads(data)
        return error if isinstance(error, BaseException) else None
    except BaseException:  # noqa: BLE001 - as above
        return None


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
    except BaseException as error:
        _let_ctrl_c_through(error)
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


def _explain(value: object, error: BaseException, replace: Replace | None = None, name: str = "") -> str:
    path, culprit = find_unpicklable(value, partial(_can_pickle, replace=replace))
    where = f"{name}{path} " if name or path else ""
    return f"{where}cannot be pickled: {type_name(culprit)} ({describe(error)})"


class _Discard:
    """A file for pickles that nobody wants."""

    def write(self, data: Any) -> int:
        return len(data)


def _can_pickle(value: object, replace: Replace | None) -> bool:
    try:
        _DefinitionPickler(cast(Any, _Discard()), replace).dump(value)
    except BaseException as error:  # noqa: BLE001 - any failure means no
        _let_ctrl_c_through(error)
        return False
    return True
