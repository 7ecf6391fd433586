"""docs/reference-coverage.md says for each behaviour what Salver does and which tests show it; they exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "reference-coverage.md"
SECTIONS = (
    "Handles: what they have",
    "Exceptions, context, metrics",
    "HTTP: the ingress",
    "HTTP: handlers and what they return",
    "Handle calls",
    "Concurrency in a replica",
    "FastAPI and other ASGI applications",
    "Batching",
    "Multiplexing",
    "Building and running",
    "Options and configuration",
    "Methods of user classes, health, life",
    "Autoscaling",
    "Command line",
    "REST API",
    "Logs",
    "Failures",
)
_OUTCOME = re.compile(r"same\b|better: |chosen: |not in this version\b")
_TEST = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    section: str
    number: str
    behaviour: str
    salver: str
    shown_by: str


def rows() -> list[Row]:
    found: list[Row] = []
    section = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif re.match(r"\| \d", line):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 4, line
            found.append(Row(section, *cells))
    return found


ROWS = rows()


@cache
def names_in(path: str) -> frozenset[str]:
    """Names of the tests in a file, those of classes as ``Class::test``."""
    module = ast.parse((ROOT / path).read_text())
    groups = [
        ("", module.body),
        *((f"{each.name}::", each.body) for each in module.body if type(each) is ast.ClassDef),
    ]
    return frozenset(
        prefix + each.name
        for prefix, body in groups
        for each in body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
    )


def test_the_sections_are_there_and_each_is_numbered_through() -> None:
    counts = Counter(row.section for row in ROWS)
    assert tuple(counts) == SECTIONS
    for section, count in counts.items():
        numbers = [row.number for row in ROWS if row.section == section]
        assert numbers == [str(number) for number in range(1, count + 1)], section


def test_no_behaviour_is_there_twice() -> None:
    repeated = [text for text, count in Counter((row.section, row.behaviour) for row in ROWS).items() if count > 1]
    assert repeated == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section} {row.number}")
def test_a_row_says_what_salver_does_and_what_shows_it(row: Row) -> None:
    assert row.behaviour
    assert _OUTCOME.match(row.salver), row.salver
    named = _TEST.findall(row.shown_by)
    assert named
    assert row.shown_by == ", ".join(f"`{each}`" for each in named)
    assert len(set(named)) == len(named)
    for test in named:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file(), test
        assert name in names_in(path), test
