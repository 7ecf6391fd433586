"""The JSON Schema of the config file, for editors and for checks before a deploy."""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from salver.records import JsonDict
from salver.serve.schema.deploy import ServeDeploySchema

SCHEMA_ID = "urn:salver:config:1"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTE = re.compile(r"^ {4}(?P<names>\w+(?:, \w+)*): (?P<text>.+(?:\n {5,}.+)*)", re.MULTILINE)


def config_json_schema() -> JsonDict:
    """JSON Schema 2020-12 of the whole file; each option has what its documentation says of it."""
    schema = ServeDeploySchema.model_json_schema(schema_generator=_WithDescriptions)
    return {"$schema": _DIALECT, "$id": SCHEMA_ID, **schema, "title": "Salver config file"}


class _WithDescriptions(GenerateJsonSchema):
    """Takes the description of each field from the ``Attributes`` of its model's docstring."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        made = super().model_schema(schema)
        model = cast("type[BaseModel]", schema["cls"])
        meanings: dict[str, str] = {}
        for base in reversed(model.__mro__):
            meanings |= _meanings(base.__doc__ or "")
        for name, field in made.get("properties", {}).items():
            if name in meanings and "$ref" not in field:
                field.setdefault("description", meanings[name])
        summary = (model.__doc__ or "").partition("\n\n")[0]
        return {**made, "description": " ".join(summary.split())}


def _meanings(docstring: str) -> dict[str, str]:
    _, _, attributes = cleandoc(docstring).partition("Attributes:\n")
    return {
        name: " ".join(found["text"].split())
        for found in _ATTRIBUTE.finditer(attributes)
        for name in found["names"].split(", ")
    }
