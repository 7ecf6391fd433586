"""What an HTTP handler returned, as an HTTP response (the table is in docs/coming-from-ray-serve.md)."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

TEXT = b"content-type: text/plain; charset=utf-8\r\n"
PLAIN = b"content-type: text/plain\r\n"
JSON = b"content-type: application/json\r\n"


def encode_result(value: Any) -> tuple[bytes, bytes]:
    """Header block and body for a returned value that is not a Response.

    Strings and bytes are sent as they are, None as nothing, everything else as JSON.

    Raises:
        TypeError: the value cannot be said in JSON.
    """
    if isinstance(value, str):
        return TEXT, value.encode()
    if isinstance(value, bytes):
        return PLAIN, value
    if value is None:
        return PLAIN, b""
    return JSON, json.dumps(value, separators=(",", ":"), default=_jsonable).encode()


def _jsonable(value: Any) -> Any:
    """Types beyond JSON's own, as FastAPI's ``jsonable_encoder`` says them, and arrays and tables."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset | deque):
        return list(cast("set[Any]", value))
    if isinstance(value, Mapping):  # query parameters, headers
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        exponent = value.as_tuple().exponent
        return int(value) if isinstance(exponent, int) and exponent >= 0 else float(value)
    if isinstance(value, UUID | PurePath | Exception):
        return str(value)
    return _array_or_table(value)


def _array_or_table(value: Any) -> Any:
    """NumPy, pandas and torch by their methods: none of them is imported here."""
    if hasattr(value, "columns") and hasattr(value, "to_dict"):
        return value.to_dict(orient="records")
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "item"):
        return value.item()
    return _known_to_pydantic(value)


def _known_to_pydantic(value: Any) -> Any:
    """URLs, addresses, secrets (masked), patterns."""
    try:
        if not isinstance(value, complex):
            return to_jsonable_python(value)
    except PydanticSerializationError:
        pass
    raise TypeError(
        f"cannot answer with a {type(value).__module__}.{type(value).__qualname__}: return a str, bytes, None, a "
        "starlette Response or something that JSON can say"
    )
