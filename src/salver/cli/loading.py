"""Importing the user's application in a child of the command line; what goes wrong is told as the user's."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
from msgspec.structs import replace

from salver.cli.output import fail, say
from salver.cli.requests import BuildRequest
from salver.compat import ray as ray_alias
from salver.errors import ConfigurationError
from salver.records import CodeContext
from salver.serve.building.builder import ArgumentsError, build_from_target, parse_app_args
from salver.serve.building.code_context import code_context
from salver.serve.building.import_path import ImportPathError, import_target, raised_by_user, user_traceback
from salver.serve.deployment import Application


def look_in(app_dir: str) -> CodeContext:
    """Have imports look in the user's folder first; where replicas are to look."""
    sys.path.insert(0, os.path.abspath(app_dir))
    return code_context()


def load_application(request: BuildRequest, base: CodeContext) -> tuple[Application, CodeContext]:
    """The application, and where replicas find its code. Exits with 1 or 2 when it cannot be had.

    Args:
        base: what ``look_in`` answered.
    """
    try:
        args = parse_app_args(request.arguments)
        code = _with_runtime_env(request, base)
    except ConfigurationError as error:
        fail(str(error), 2)
    if request.compat or not ray_alias.ray_is_installed():
        why = "--compat" if request.compat else "Ray is not installed"
        ray_alias.install(lambda: say(f"`import ray` means Salver here ({why})."))
    try:
        application = build_from_target(import_target(request.import_path), args)
    except BaseException as error:  # noqa: BLE001 - anything the user's module raises, SystemExit included
        _explain(request.import_path, error)
    return application, replace(code_context(), env_vars=code.env_vars)


def _with_runtime_env(request: BuildRequest, base: CodeContext) -> CodeContext:
    if not request.runtime_env:
        return base
    from salver.engine.local.roles import make_importable  # most have none
    from salver.serve.runtime_env import resolve

    code = resolve(request.runtime_env, base, say)
    make_importable(code)
    return code


def _explain(import_path: str, error: BaseException) -> NoReturn:
    if isinstance(error, ImportPathError):
        fail(str(error), 1)
    if isinstance(error, ArgumentsError):
        fail(str(error), 2)
    if isinstance(error, TypeError) and not raised_by_user(error):  # ours: it is no application
        fail(f"{import_path}: {error}", 1)
    click.echo(user_traceback(error).rstrip(), err=True)
    fail(f"{import_path} could not be loaded: {type(error).__name__}.", 1)
