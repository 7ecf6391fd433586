"""The JSON Schema of a ``runtime_env``: what ``fields`` accepts, for editors and for checks before a deploy.

Beside each other, the two are read most easily; a test holds them to the same verdicts.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "not": {"pattern": "\\u0000"}}
_PATH: Schema = {"type": "string", "minLength": 1, "not": {"pattern": "://|\\u0000"}}
_LINE: Schema = {"type": "string", "pattern": "\\S", "not": {"pattern": "[\\n\\r\\u0000]"}}
_LINES: Schema = {"type": "array", "items": _LINE}
_PACKAGES: Schema = {"anyOf": [_LINES, _PATH]}


def _or_null(description: str, schema: Schema) -> Schema:
    return {"description": description, "anyOf": [schema, {"type": "null"}]}


RUNTIME_ENV: Schema = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "env_vars": _or_null(
                    "Environment variables; ${NAME} is taken from the environment of the command that deploys.",
                    {
                        "type": "object",
                        "propertyNames": {"minLength": 1, "not": {"pattern": "[=\\u0000]"}},
                        "additionalProperties": _TEXT,
                    },
                ),
                "working_dir": _or_null("The folder, or .zip file, with the code; the current folder there.", _PATH),
                "py_modules": _or_null(
                    "Modules beside it: folders, .py files and .whl files.", {"type": "array", "items": _PATH}
                ),
                "pip": _or_null(
                    "Packages: requirements, the path of a requirements file, or both with options.",
                    {
                        "anyOf": [
                            _LINES,
                            _PATH,
                            {
                                "type": "object",
                                "properties": {
                                    "packages": {"description": "Requirements, or their file.", **_PACKAGES},
                                    "pip_check": {
                                        "description": "Whether `pip check` must be content afterwards.",
                                        "type": "boolean",
                                    },
                                    "pip_install_options": {"description": "Of `pip install`.", **_LINES},
                                },
                                "required": ["packages"],
                                "additionalProperties": False,
                            },
                        ]
                    },
                ),
                "excludes": _or_null("Has no effect: nothing is copied.", _LINES),
            },
            "additionalProperties": False,
        },
        {"type": "null"},
    ]
}
