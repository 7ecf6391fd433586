"""Find what ``module:attribute`` names; tell wrong paths from errors of the user's module."""

from __future__ import annotations

import pkgutil
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import salver
from salver.errors import ConfigurationError
from salver.serve.deployment import Application, Deployment
from salver.serve.validation import did_you_mean

_MOST_LOOKED_AT = 1000
"""Entries of a folder, for a hint."""

_SALVER_FOLDER = f"{Path(salver.__file__).parent}/"


class ImportPathError(ConfigurationError):
    """An import path names nothing that can be served; the message says what is near it."""


def import_target(import_path: str) -> object:
    """The application, builder function or other object at ``import_path``.

    Args:
        import_path: ``module:attribute``, ``package.module:attribute.inner``, or with a dot for the colon.

    Raises:
        ImportPathError: the path is malformed or names nothing, or a deployment that was not bound.
        Exception: whatever the user's module raises while it is imported.
    """
    module_name, attributes = _split(import_path)
    found: Any = _import(module_name)
    for place, name in enumerate(attributes):
        owner = ".".join((module_name, *attributes[:place]))
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ImportPathError(_no_attribute(owner, found, name)) from None
    if isinstance(found, Deployment):
        name = attributes[-1]
        raise ImportPathError(f"{import_path} is a Deployment; bind it first: `app = {name}.bind()`")
    return found


def check_import_path(import_path: str) -> None:
    """Raises ImportPathError unless ``import_path`` is of the form that ``import_target`` takes."""
    _split(import_path)


def user_traceback(error: BaseException) -> str:
    """``error`` with its traceback, without the frames of Salver and of Python's import machinery.

    A syntax error is shown as its file, line and caret only: where it was imported says nothing.
    """
    shown = traceback.TracebackException.from_exception(error)
    if isinstance(error, SyntaxError):
        return "".join(shown.format_exception_only())
    pending: list[traceback.TracebackException] = [shown]
    while pending:
        part = pending.pop()
        part.stack = traceback.StackSummary.from_list([f for f in part.stack if _is_users(f.filename)])
        pending += [cause for cause in (part.__cause__, part.__context__) if cause is not None]
        pending += part.exceptions or []
    return "".join(shown.format())


def _is_users(filename: str) -> bool:
    return not (
        filename.startswith((_SALVER_FOLDER, "<frozen importlib"))
        or filename.endswith(("importlib/__init__.py", "importlib/_bootstrap.py"))
    )


def _split(import_path: str) -> tuple[str, list[str]]:
    separator = ":" if ":" in import_path else "."
    module_name, _, attribute = import_path.rpartition(separator)
    parts = attribute.split(".")
    file_name, is_file, _ = module_name.partition(".py")
    if "/" in module_name or (is_file and separator == ":" and module_name.endswith(".py")):
        suggestion = f"{file_name.strip('./').replace('/', '.')}:{attribute}"
        raise ImportPathError(f"import path {import_path!r}: takes a module's name, not a file's: use {suggestion!r}")
    if not all(name.isidentifier() for name in (*module_name.split("."), *parts)):
        raise ImportPathError(f"import path {import_path!r}: must be of the form 'module:attribute', like 'app:app'")
    return module_name, parts


def _import(module_name: str) -> ModuleType:
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        asked_for = module_name == missing or module_name.startswith(f"{missing}.")
        if not asked_for or raised_by_user(error):
            raise
        raise ImportPathError(_no_module(module_name, missing)) from None


def raised_by_user(error: BaseException) -> bool:
    """Whether any code of the user's ran between Salver's and the place where ``error`` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(_is_users(frame.filename) for frame in frames)


def _no_module(module_name: str, missing: str) -> str:
    package, _, _ = missing.rpartition(".")
    if package:
        folders = list(getattr(sys.modules[package], "__path__", []))
        where = f"package {package!r}"
    else:
        folders = [sys.path[0] or "."]
        where = str(Path(folders[0]).resolve())
    prefix = f"{package}." if package else ""
    near = did_you_mean(missing, [prefix + module.name for module in pkgutil.iter_modules(folders)])
    below = "" if package or near else _folder_below(where, missing)
    return f"No module named {missing!r} in {where}.{near}{below}"


def _folder_below(where: str, module_name: str) -> str:
    """A hint for who packed a folder instead of what is in it, or named the one above."""
    with suppress(OSError):
        for folder in islice(Path(where).iterdir(), _MOST_LOOKED_AT):
            if (folder / f"{module_name}.py").is_file() or (folder / module_name / "__init__.py").is_file():
                return f" It is in the folder {folder.name!r} there, and has to be looked for in that."
    return ""


def _no_attribute(owner: str, found: object, name: str) -> str:
    attributes: Mapping[str, object] = getattr(found, "__dict__", {})
    public = {key: value for key, value in attributes.items() if not key.startswith("_")}
    near = did_you_mean(
        name, [key for key, value in public.items() if isinstance(value, Application) or callable(value)]
    )
    if not near:
        applications = [key for key, value in public.items() if isinstance(value, Application)]
        near = f" Applications in it: {', '.join(sorted(applications))}." if applications else ""
    kind = "Module" if isinstance(found, ModuleType) else "Object"
    return f"{kind} {owner!r} has no attribute {name!r}.{near}"
