"""A config file, read and checked: every mistake at once, each with its line, its column and the path of its key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, cast

from salver.controller.build_messages import Mistake
from salver.errors import ConfigurationError
from salver.records import JsonDict
from salver.serve.declared.config_text import MAX_BYTES, Path, Place, PlainText, TextError, read_plain
from salver.serve.schema.deploy import ServeDeploySchema
from salver.serve.validation import WRONG_KEY, OptionsError, Problem, dotted

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SAID_OTHERWISE = {
    "model_type": "must be a mapping of names to values",
    "dict_type": "must be a mapping of names to values",
    "list_type": "must be a list",
}


class ConfigFileError(ConfigurationError):
    """A config file is wrong; nothing was done with it.

    Args:
        problems: one line for each mistake, ``file:line:column: path of the key…``, in their order in the file.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigFileError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that is in order by itself.

    Attributes:
        name: what messages call it.
        config: what it says, JSON-able, with variables replaced; what ``PUT /api/serve/applications/`` takes.
        schema: the same, checked.
        warnings: what it sets without effect, each with its place.
    """

    name: str
    config: JsonDict
    schema: ServeDeploySchema
    warnings: tuple[str, ...]
    _plain: PlainText

    def lines_of(self, mistakes: Iterable[Mistake]) -> list[str]:
        """A line for each of what was found later, in their order in the file."""
        everywhere = [f"{self.name}: {each.message}" for each in mistakes if not each.at]
        placed = [(_place_of(each.at, self._plain, of_key=each.of_key), each.message) for each in mistakes if each.at]
        return everywhere + _lines(self.name, placed)


def read_config_file(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> ConfigFile:
    """Read and check the file at ``path``.

    Args:
        environment: of ``${NAME}`` in values of ``env_vars``; default that of this process.

    Raises:
        ConfigFileError: it cannot be read, or it is wrong: all mistakes at once.
    """
    shown = os.fspath(path)
    return parse_config(_text_of(FilePath(path), shown), shown, environment)


def parse_config(text: str, name: str, environment: Mapping[str, str] | None = None) -> ConfigFile:
    """The same of a text; ``name`` is what messages call its file. Raises ConfigFileError."""
    try:
        plain = read_plain(text)
    except TextError as error:
        raise ConfigFileError([_line(name, error.problem.place, error.problem.message)]) from None
    unreadable = [(each.place, _under(each.path, each.message)) for each in plain.problems]
    value: object = plain.value
    if not isinstance(value, dict):
        unreadable = unreadable or [(Place(1, 1), "must be a mapping with the key 'applications'")]
        raise ConfigFileError(_lines(name, unreadable))
    config = cast("JsonDict", value)
    found = _interpolate(config, os.environ if environment is None else environment)
    schema: ServeDeploySchema | None = None
    try:
        schema = validate_config(config)
    except OptionsError as error:
        found += error.found
    explained = [each.path for each in plain.problems]
    found = [each for each in found if not any(each.at[: len(path)] == path for path in explained)]
    if schema is None or found or unreadable:
        raise ConfigFileError(_lines(name, unreadable + _placed(found, plain)))
    return ConfigFile(name, config, schema, tuple(_lines(name, _placed(schema.warnings(), plain))), plain)


def validate_config(config: JsonDict) -> ServeDeploySchema:
    """``config`` as models. Raises OptionsError with all problems at once."""
    try:
        return ServeDeploySchema(**config)
    except NotImplementedError as error:  # Ray Serve's answer to some values, so also that of our options
        raise OptionsError([Problem((), str(error))]) from None


def _text_of(path: FilePath, shown: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigFileError([f"{shown}: cannot be read: {reason}"]) from None
    if len(data) > MAX_BYTES:
        raise ConfigFileError([f"{shown}: has more than {MAX_BYTES} bytes"])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise ConfigFileError([_line(shown, place, "is not UTF-8")]) from None


def _interpolate(config: JsonDict, environment: Mapping[str, str]) -> list[Problem]:
    """Replace ``${NAME}`` in values of ``env_vars``, and nowhere else: a file is data, not a template."""
    problems: list[Problem] = []

    def visit(value: Any, path: Path) -> None:
        items: Iterable[tuple[int | str, Any]] = ()
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
        elif isinstance(value, list):
            items = enumerate(cast("list[Any]", value))
        for key, inner in items:
            if key == "env_vars" and path[-1:] == ("runtime_env",) and isinstance(inner, dict):
                replace(cast("dict[str, Any]", inner), (*path, key))
            else:
                visit(inner, (*path, key))

    def replace(variables: dict[str, Any], path: Path) -> None:
        for key, value in variables.items():
            if isinstance(value, str):
                missing = [name for name in _VARIABLE.findall(value) if name not in environment]
                problems.extend(
                    Problem((*path, key), f": there is no environment variable {name!r}") for name in missing
                )
                if not missing:
                    variables[key] = _VARIABLE.sub(lambda found: environment[found[1]], value)

    visit(config, ())
    return problems


def _lines(name: str, placed: list[tuple[Place, str]]) -> list[str]:
    """In their order in the file, each once: what aliases repeat is wrong in one place."""
    placed.sort(key=lambda each: (each[0].line, each[0].column))
    return list(dict.fromkeys(_line(name, place, sentence) for place, sentence in placed))


def _placed(problems: Iterable[Problem], plain: PlainText) -> list[tuple[Place, str]]:
    return [
        (_place_of(problem.at, plain, of_key=problem.kind == WRONG_KEY), _sentence(problem)) for problem in problems
    ]


def _under(path: Path, message: str) -> str:
    return f"{dotted(path)}: {message}" if path else message


def _place_of(path: Path, plain: PlainText, *, of_key: bool) -> Place:
    """Of the key when the key is wrong, else of the value; of what should have it when it is not there."""
    if of_key and path in plain.keys:
        return plain.keys[path]
    while path not in plain.values and path:
        path = path[:-1]
    return plain.values.get(path, Place(1, 1))


def _sentence(problem: Problem) -> str:
    otherwise = _SAID_OTHERWISE.get(problem.kind)
    if otherwise is None:
        return str(problem)
    shown, _, _ = problem.rule.rpartition(": ")
    return str(problem._replace(rule=f"{shown}: {otherwise}"))


def _line(name: str, place: Place, message: str) -> str:
    return f"{name}:{place.line}:{place.column}: {message}"
