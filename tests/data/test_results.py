"""What a handler returned, as an HTTP response: the types that Ray Serve's users return."""

from __future__ import annotations

import datetime
import json
import re
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from pydantic import AnyUrl, BaseModel, Field, SecretStr
from starlette.datastructures import QueryParams

from salver.data.replica.results import JSON, PLAIN, TEXT, encode_result


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Model(BaseModel):
    name: str = Field(serialization_alias="called")
    when: datetime.date


@dataclass
class Point:
    x: int
    labels: list[str] = field(default_factory=list)


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - users have them


class Table:
    """What pandas' DataFrame looks like from here."""

    columns = ("a", "b")

    def to_dict(self, orient: str) -> list[dict[str, int]]:
        assert orient == "records"
        return [{"a": 1, "b": 2}]


class Scalar:
    """What a zero-dimensional tensor looks like to who knows only ``item``."""

    def item(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    ("value", "block", "body"),
    [
        ("grüß", TEXT, "grüß".encode()),
        ("", TEXT, b""),
        (b"\x00\xff", PLAIN, b"\x00\xff"),
        (None, PLAIN, b""),
        ({"a": [1, 2.5, None, True]}, JSON, b'{"a":[1,2.5,null,true]}'),
        ([], JSON, b"[]"),
        (0, JSON, b"0"),
        (False, JSON, b"false"),
        ((1, "two"), JSON, b'[1,"two"]'),
        ("\u2028", TEXT, "\u2028".encode()),
    ],
)
def test_plain_values(value: object, block: bytes, body: bytes) -> None:
    assert encode_result(value) == (block, body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Model(name="n", when=datetime.date(2024, 2, 29)), {"called": "n", "when": "2024-02-29"}),
        (Point(1, ["a"]), {"x": 1, "labels": ["a"]}),
        (Pair(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        ({1}, [1]),
        (frozenset({2}), [2]),
        (deque([1, 2]), [1, 2]),
        ({"bytes": b"text"}, {"bytes": "text"}),
        (datetime.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
        (Decimal(3), 3),
        (Decimal("1.50"), 1.5),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (PurePosixPath("/a/b"), "/a/b"),
        (ValueError("text"), "text"),
        (QueryParams("a=b&c=d&c=e"), {"a": "b", "c": "e"}),
        (MappingProxyType({"of": Point(1)}), {"of": {"x": 1, "labels": []}}),
        (IPv4Address("127.0.0.1"), "127.0.0.1"),
        (AnyUrl("http://a/b"), "http://a/b"),
        (SecretStr("secret"), "**********"),
        (re.compile("a+"), "a+"),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.float32(1.5), 1.5),
        (np.int64(2**53), 2**53),
        (np.array(7), 7),
        (np.bool_(True), True),
        (Table(), [{"a": 1, "b": 2}]),
        (Scalar(), 2.5),
        ({"deep": [{"er": {np.int8(1).item(): Point(2)}}]}, {"deep": [{"er": {"1": {"x": 2, "labels": []}}}]}),
        (
            [Model(name="n", when=datetime.date(2024, 1, 1)), np.zeros(2)],
            [{"called": "n", "when": "2024-01-01"}, [0, 0]],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_beyond_json(value: object, expected: Any) -> None:
    block, body = encode_result(value)
    assert block == JSON
    assert json.loads(body) == expected


@pytest.mark.parametrize("value", [object(), {"k": object()}, int, lambda: None, 1j])
def test_what_json_cannot_say_is_the_handlers_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"cannot answer with a builtins\.\w+: return a str"):
        encode_result(value)


def test_keys_that_json_cannot_say() -> None:
    with pytest.raises(TypeError):
        encode_result({(1, 2): 3})


def test_a_value_that_holds_itself_is_an_error() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular"):
        encode_result(value)
