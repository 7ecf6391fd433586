"""What every model of options shares: strict values, numpy scalars taken as numbers, and messages of ours.

A user reads ``max_ongoing_requests=0: must be an integer of at least 1``, never a type name of pydantic's.
For that each field carries the phrase that says what it allows (``Allowed``); whatever goes wrong inside the
field, the phrase is the message, and the table in ``docs/options.md`` shows the same phrase.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_letters, digits
from typing import Annotated, Any, NamedTuple, cast

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

WRONG_KEY = "extra_forbidden"
"""The kind of a problem that is the key's, not its value's."""

_SHOWN_VALUE_CHARS = 80
_NAME_CHARS = f"{ascii_letters}{digits}_"


class Problem(NamedTuple):
    """One wrong value; ``str()`` is a sentence that names the option, its value and what is allowed.

    Attributes:
        at: where it is, from the outermost model: names and indices.
        rule: what follows the path in the sentence.
        kind: pydantic's name of the kind of error; of ours, ``WRONG_KEY`` or empty.
    """

    at: tuple[int | str, ...]
    rule: str
    kind: str = ""

    def __str__(self) -> str:
        path = dotted(self.at)
        joint = "." if path and self.rule[:1].isalpha() else ""  # the rule begins with a name of its own
        return f"{path}{joint}{self.rule}"

    def below(self, outer: tuple[int | str, ...]) -> Problem:
        """The same, seen from a model that has this one at ``outer``."""
        return self._replace(at=(*outer, *self.at))


class OptionsError(ConfigurationError):
    """Some options have wrong values.

    Args:
        problems: each wrong one, or a sentence that says all of it.
        heading: a line before them.
    """

    def __init__(self, problems: Sequence[str | Problem], heading: str = "") -> None:
        self.found = tuple(Problem((), each) if isinstance(each, str) else each for each in problems)
        self.heading = heading
        self.problems = tuple(map(self.sentence, self.found))
        super().__init__("\n".join((heading, *self.problems) if heading else self.problems))

    def sentence(self, problem: Problem) -> str:
        """What is said of one."""
        return str(problem)

    def __reduce__(self) -> tuple[type[OptionsError], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.found, self.heading)


class Options(BaseModel):
    """Base of the option models: immutable, no unknown names, errors are ``OptionsError`` (ValueErrors)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**{name: without_numpy(value) for name, value in values.items()})
        except ValidationError as error:
            raise OptionsError(find_problems(error, type(self).model_fields)) from None


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


def find_problems(error: ValidationError, known_names: Iterable[str] = ()) -> list[Problem]:
    """Each wrong value in ``error``; ``known_names``: what a misspelt name may mean."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        problems += _problems_of(detail, list(known_names))
    return problems


def _problems_of(detail: ErrorDetails, known_names: list[str]) -> list[Problem]:
    at, kind = detail["loc"], detail["type"]
    cause: object = detail.get("ctx", {}).get("error")
    if isinstance(cause, OptionsError):
        return [problem.below(at) for problem in cause.found]
    if not at:
        return [_of_model(str(cause or detail["msg"]), known_names)]
    match kind:
        case _ if kind == WRONG_KEY:
            rule = f": there is no such option.{did_you_mean(str(at[-1]), known_names)}"
        case "missing":
            rule = ": is required"
        case "predicate":
            rule = f" {detail['msg']}"
        case _:
            allowed = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
            rule = f"={_shown(detail['input'])}: {allowed}"
    return [Problem(at, rule, kind)]


def _of_model(sentence: str, known_names: list[str]) -> Problem:
    """What a check of several options says begins with the name of the one to change."""
    name = sentence[: len(sentence) - len(sentence.lstrip(_NAME_CHARS))]
    return Problem((name,), sentence[len(name) :]) if name in known_names else Problem((), sentence)


def dotted(location: Iterable[int | str]) -> str:
    """``a.b[0].c``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE_CHARS else f"{text[: _SHOWN_VALUE_CHARS - 1]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest of ``known``, to be appended to an error; empty when none is near."""
    from difflib import get_close_matches  # only a mistake needs it

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
