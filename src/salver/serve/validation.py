"""What every model of options shares: strict values, numpy scalars taken as numbers, and messages of ours.

A user reads ``max_ongoing_requests=0: must be an integer of at least 1``, never a type name of pydantic's.
For that each field carries the phrase that says what it allows (``Allowed``); whatever goes wrong inside the
field, the phrase is the message, and the table in ``docs/options.md`` shows the same phrase.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, cast

from annotated_types import Ge, Gt, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from salver.errors import ConfigurationError

_SHOWN_VALUE_CHARS = 80


class OptionsError(ConfigurationError):
    """Some options have wrong values.

    Args:
        problems: one sentence for each, which names the option, its value and what is allowed.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[OptionsError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class Options(BaseModel):
    """Base of the option models: immutable, no unknown names, errors are ``OptionsError`` (ValueErrors)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**{name: without_numpy(value) for name, value in values.items()})
        except ValidationError as error:
            raise OptionsError(describe_problems(error, type(self).model_fields)) from None


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a field allows, in words that follow "must be"; goes to the outermost type of the field."""

    phrase: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def _validate(self, value: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("not_allowed", "must be {phrase}", {"phrase": self.phrase}) from None


def describe_problems(error: ValidationError, known_names: Iterable[str] = ()) -> list[str]:
    """One sentence for each wrong value in ``error``; ``known_names``: what a misspelt name may mean."""
    problems: list[str] = []
    for detail in error.errors(include_url=False):
        problems += _describe_problem(detail, list(known_names))
    return problems


def _describe_problem(detail: ErrorDetails, known_names: list[str]) -> list[str]:
    path = _dotted(detail["loc"])
    cause: object = detail.get("ctx", {}).get("error")
    if isinstance(cause, OptionsError):
        return [f"{path}.{problem}" for problem in cause.problems]
    if not path:
        return [str(cause or detail["msg"])]
    match detail["type"]:
        case "extra_forbidden":
            return [f"{path}: there is no such option.{did_you_mean(path, known_names)}"]
        case "missing":
            return [f"{path}: is required"]
        case "predicate":
            return [f"{path} {detail['msg']}"]
        case _:
            rule = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
            return [f"{path}={_shown(detail['input'])}: {rule}"]


def _dotted(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE_CHARS else f"{text[: _SHOWN_VALUE_CHARS - 1]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest of ``known``, to be appended to an error; empty when none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def without_numpy(value: object) -> object:
    """Copy plain containers, with scalars of numpy and its likes replaced by Python's numbers.

    Options are often computed with numpy; its scalars are neither strict ints nor JSON. They are known by
    their shape, not their type, so that numpy is not imported.
    """
    if type(value) is dict:
        items = cast("dict[object, object]", value)
        return {key: without_numpy(item) for key, item in items.items()}
    if type(value) is list:
        return [without_numpy(item) for item in cast("list[object]", value)]
    if type(value) is tuple:
        return tuple(without_numpy(item) for item in cast("tuple[object, ...]", value))
    if hasattr(value, "dtype") and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return cast(Any, value).item()
    return value


def import_string(target: str | Callable[..., Any]) -> str:
    """``module:qualified.name`` of a class or function; a string is taken to be one already."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _check_json(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise PydanticCustomError("predicate", "is not JSON-serializable: {reason}", {"reason": str(error)}) from None
    return value


Count = Annotated[int, Strict(), Ge(1), Allowed("an integer of at least 1")]
CountFromZero = Annotated[int, Strict(), Ge(0), Allowed("an integer of at least 0")]
Port = Annotated[int, Strict(), Ge(0), Le(65535), Allowed("a port number, 0 (any free port) to 65535")]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Gt(0), Allowed("a number above 0")]
NotNegative = Annotated[Number, Ge(0), Allowed("a number of at least 0")]
Flag = Annotated[bool, Strict(), Allowed("True or False")]
Text = Annotated[str, Strict(), Allowed("a string")]
OptionalText = Annotated[str | None, Allowed("a string or None")]
OptionalPositive = Annotated[Positive | None, Allowed("a number above 0, or None")]
Json = Annotated[Any, AfterValidator(_check_json)]
JsonObject = Annotated[dict[str, Any], Allowed("a dict with string keys"), AfterValidator(_check_json)]
ImportTarget = Annotated[
    str | Callable[..., Any],
    Allowed("an import path 'module:name', a class or a function"),
    PlainSerializer(import_string, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
