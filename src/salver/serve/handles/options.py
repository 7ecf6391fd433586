"""The options of a handle: defaults, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, cast

import msgspec
from msgspec import Struct

from salver.errors import ConfigurationError

SERIALIZERS = ("cloudpickle", "pickle", "msgpack", "orjson")


class HandleOptions(Struct, frozen=True):
    """How a handle calls; the attributes are those of ``DeploymentHandle.options``."""

    method_name: str = "__call__"
    stream: bool = False
    multiplexed_model_id: str = ""
    session_id: str = ""
    _prefer_local_routing: bool = False
    _by_reference: bool = True
    request_serialization: str = "cloudpickle"
    response_serialization: str = "cloudpickle"

    def changed(self, given: dict[str, Any]) -> HandleOptions:
        """A copy with what is given, checked; what is None stays as it was.

        Raises:
            TypeError: an unknown option.
            ConfigurationError: a wrong value (a ``ValueError``).
        """
        changes = {name: value for name, value in given.items() if value is not None}
        for name, value in changes.items():
            if name not in _KINDS:
                raise TypeError(f"handle options: there is no option {name!r}; there are {', '.join(_KINDS)}")
            if name == "method_name":
                changes[name] = method_name_of(value)
            elif not isinstance(value, _KINDS[name]):
                kind, got = _KINDS[name].__name__, type(value).__name__
                raise ConfigurationError(f"handle options: {name} must be a {kind}, got {value!r} ({got})")
            elif name.endswith("_serialization") and value not in SERIALIZERS:
                raise ConfigurationError(f"handle options: {name} must be one of {SERIALIZERS}, got {value!r}")
        return msgspec.structs.replace(self, **changes)


_KINDS: dict[str, type] = {
    name: type(default)
    for name, default in zip(HandleOptions.__struct_fields__, HandleOptions.__struct_defaults__, strict=True)
}


class RareHandleOptions(TypedDict, total=False):
    """The options that do not change the type of what a call gives."""

    multiplexed_model_id: str
    session_id: str
    _prefer_local_routing: bool
    _by_reference: bool
    request_serialization: str
    response_serialization: str


def method_name_of(method: str | Callable[..., Any]) -> str:
    """The name of a method that was given by name or as the function itself."""
    name = cast(object, method if isinstance(method, str) else getattr(method, "__name__", None))
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigurationError(
            f"handle options: method_name must be the name of a method or the method itself "
            f"(Translator.translate), got {method!r}"
        )
    return name
