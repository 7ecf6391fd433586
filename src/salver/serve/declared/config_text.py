"""YAML as plain values that remember where in the file they were.

What JSON cannot say is refused (dates, tags, infinite numbers), for a config also travels as JSON; so is what makes
YAML dangerous or ambiguous: tags that construct objects, repeated keys, nesting and aliases without end. An alias
bomb is a small file of few aliases that doubles with each: hence the bound on values after their expansion.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_yaml: Any = yaml  # its types say less than its documentation

MAX_BYTES = 1 << 20
MAX_ALIASES = 100
MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_CHARACTERS = 4 << 20
"""Both after the expansion of aliases; a file of 1 MiB without them has fewer."""

_MERGE = "tag:yaml.org,2002:merge"

Path = tuple[int | str, ...]
"""Where a value is in the file: keys and indices from the outside."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class TextProblem:
    """Why a text is no plain value; ``path`` is empty when that is known of the whole only."""

    place: Place
    path: Path
    message: str


class TextError(Exception):
    """The text is no YAML, or more than is allowed; ``problem`` says where and why."""

    def __init__(self, problem: TextProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class PlainText:
    """The value of a text.

    Attributes:
        value: what it says; None in place of what is a problem.
        values, keys: where values are, and the keys of mappings.
        problems: parts that a config must not have.
    """

    value: Any
    values: dict[Path, Place]
    keys: dict[Path, Place]
    problems: list[TextProblem]


def read_plain(text: str) -> PlainText:
    """The one document of ``text``. Raises TextError."""
    if not _is_unicode(text):
        raise TextError(TextProblem(Place(1, 1), (), "is not valid Unicode"))
    _check_bounds(text)
    loader: Any = yaml.CSafeLoader(text)
    reader = _Reader(loader)
    try:
        node = loader.get_single_node()
        value = None if node is None else reader.read(node, (), 1)
    except yaml.YAMLError as error:
        raise TextError(_of_yaml(error)) from None
    finally:
        loader.dispose()
    return PlainText(value, reader.values, reader.keys, reader.problems)


def _check_bounds(text: str) -> None:
    """Depth and aliases, from the events: the tree is made by recursion, so it must not be made of anything."""
    depth = aliases = 0
    try:
        events: Iterator[Any] = _yaml.parse(text, Loader=yaml.CSafeLoader)
        for event in events:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > MAX_DEPTH:
                raise _too_much(event.start_mark, f"values are nested more than {MAX_DEPTH} deep")
            if aliases > MAX_ALIASES:
                raise _too_much(event.start_mark, f"there are more than {MAX_ALIASES} aliases")
    except yaml.YAMLError as error:
        raise TextError(_of_yaml(error)) from None


def _too_much(mark: Any, message: str) -> TextError:
    return TextError(TextProblem(_place(mark), (), message))


class _Reader:
    """Walks the tree of nodes; ``problems`` are those found on the way."""

    def __init__(self, loader: Any) -> None:
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.problems: list[TextProblem] = []
        self._loader = loader
        self._count = 0
        self._characters = 0

    def read(self, node: yaml.Node, path: Path, depth: int) -> Any:
        place = _place(node.start_mark)
        self.values[path] = place
        self._count += 1
        if self._count > MAX_VALUES:
            raise _too_much(node.start_mark, f"there are more than {MAX_VALUES} values once aliases are expanded")
        if depth > MAX_DEPTH + 1:
            raise _too_much(
                node.start_mark, f"values are nested more than {MAX_DEPTH} deep once aliases are expanded"
            )
        match node:
            case yaml.MappingNode() if node.tag == "tag:yaml.org,2002:map":
                return self._mapping(node, path, depth)
            case yaml.SequenceNode() if node.tag == "tag:yaml.org,2002:seq":
                return [self.read(each, (*path, at), depth + 1) for at, each in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case _:
                return self._problem(place, path, f"the tag {_short_tag(node.tag)} is not allowed")

    def _mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own: dict[str, Place] = {}
        for key_node, value_node in sorted(node.value, key=_merges_last):
            if key_node.tag == _MERGE:
                found = {**self._merged(value_node, path, depth), **found}
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            place = _place(key_node.start_mark)
            if key in own:
                self._problem(place, (*path, key), f"is there twice, first in line {own[key].line}")
                continue
            self.keys[(*path, key)] = own[key] = place
            found[key] = self.read(value_node, (*path, key), depth + 1)
        return found

    def _merged(self, node: yaml.Node, path: Path, depth: int) -> dict[str, Any]:
        """What ``<<: *base``, or a list of such, adds. Not PyYAML's way: that one grows without end."""
        bases: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values, keys = dict(self.values), dict(self.keys)
        found: dict[str, Any] = {}
        for base in reversed(bases):
            if not isinstance(base, yaml.MappingNode):
                self._problem(_place(base.start_mark), path, "<< takes a mapping, or a list of mappings")
                continue
            found |= self.read(base, path, depth + 1)
        self.values |= values  # where the mapping itself says something counts
        self.keys |= keys
        return found

    def _key(self, node: yaml.Node, path: Path) -> str | None:
        key = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else node
        if key is node:
            return self._problem(_place(node.start_mark), path, "a key must be a text, not a list or a mapping")
        return key if isinstance(key, str) else json.dumps(key)  # as JSON, so also Ray Serve, has numbers as keys

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        place = _place(node.start_mark)
        self._characters += len(node.value)
        if self._characters > MAX_CHARACTERS:
            raise _too_much(node.start_mark, f"there are more than {MAX_CHARACTERS} characters of values in all")
        try:
            value: Any = self._loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError, KeyError, IndexError):
            return self._problem(place, path, f"{_shown(node)} cannot be read as {_short_tag(node.tag)}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._problem(place, path, f"{_shown(node)} is not a finite number")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            return self._problem(place, path, f"{_shown(node)} is too large a number")
        if isinstance(value, str):
            return value if _is_unicode(value) else self._problem(place, path, "is not valid Unicode")
        if value is None or isinstance(value, bool | int | float):
            return value
        kind = _short_tag(node.tag)
        return self._problem(place, path, f"{_shown(node)} is a {kind}: put it in quotes if a text is meant")

    def _problem(self, place: Place, path: Path, message: str) -> None:
        self.problems.append(TextProblem(place, path, message))


def _merges_last(item: tuple[yaml.Node, yaml.Node]) -> bool:
    return item[0].tag == _MERGE


def _of_yaml(error: yaml.YAMLError) -> TextProblem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    place = Place(1, 1) if mark is None else _place(mark)
    return TextProblem(place, (), f"is not valid YAML: {what}{f' ({context})' if context else ''}")


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _short_tag(tag: str) -> str:
    return tag.removeprefix("tag:yaml.org,2002:")


def _shown(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
