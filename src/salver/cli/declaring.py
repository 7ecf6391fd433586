"""Config files: read and checked, then told to an instance."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, cast

from salver.cli.awaited import Awaited
from salver.cli.consequences import options_without_effect, removed_by
from salver.cli.output import fail, say
from salver.cli.requests import CheckedConfig
from salver.controller.client import ControlClient, ControlRefused
from salver.engine.local.instance import Instance
from salver.records import LoggingSpec
from salver.serve.building.logging_spec import logging_spec
from salver.serve.declared.config_file import ConfigFile, ConfigFileError, read_config_file

_OVERTAKEN = 409
_HTTP_OPTIONS_WITHOUT_FLAGS = {"location", "num_cpus", "middlewares"}


class ReadConfig(NamedTuple):
    """A config file and where everything is in it, and what a command needs of it."""

    file: ConfigFile
    checked: CheckedConfig


def read_config(path: str, app_dir: str | None) -> ReadConfig:
    """The file, if it is in order by itself; its warnings are said. Else exits with 2 and a line for each mistake.

    Args:
        app_dir: applications that name no ``working_dir`` get it: there their import paths are found. Where the files
            of a ``runtime_env`` have relative paths, they begin there, too: the instance may have been started
            in another folder. None for an instance on another machine, where all that is as the file says.
    """
    try:
        read = read_config_file(path)
    except ConfigFileError as error:
        for problem in error.problems:
            say(problem)
        fail(f"{path} is wrong; nothing was started or changed.", 2)
    for warning in read.warnings:
        say(f"Warning: {warning}")
    applications = cast("list[dict[str, Any]]", read.config.get("applications") or [])
    if app_dir is not None:
        folder = os.path.abspath(app_dir)
        applications = [_with_working_dir(application, folder) for application in applications]
    http_options = read.schema.http_options.model_dump(exclude_unset=True, exclude=_HTTP_OPTIONS_WITHOUT_FLAGS)
    names = tuple(application.name for application in read.schema.applications)
    logging = logging_spec(read.schema.logging_config) or LoggingSpec()
    checked = CheckedConfig({**read.config, "applications": applications}, http_options, logging, names)
    return ReadConfig(read, checked)


def _with_working_dir(application: dict[str, Any], folder: str) -> dict[str, Any]:
    """With ``folder`` as its ``working_dir``, or as the place where the paths begin that it names."""
    environment = cast("dict[str, Any]", application.get("runtime_env") or {})
    ours: dict[str, Any] = {"working_dir": _from(folder, environment.get("working_dir") or folder)}
    if environment.get("py_modules"):
        ours["py_modules"] = [_from(folder, module) for module in environment["py_modules"]]
    return {**application, "runtime_env": {**environment, **ours}}


def _from(folder: str, path: str) -> str:
    """A path as it is seen from ``folder``; a URL is none."""
    return path if "://" in path else os.path.join(folder, os.path.expanduser(path))


def declare(checked: CheckedConfig, control: ControlClient, check: str | None = None) -> Awaited:
    """Tell the instance, and say what that takes away; what there is to wait for.

    Args:
        check: by which the instance has built it already.

    Exits with a sentence when the instance refuses: with 2 when the config is wrong, with 1 when it cannot take it
    or has taken a later one.
    """
    removed = removed_by(checked, control.status())
    try:
        accepted = control.declare(checked.document, check)
    except ControlRefused as error:
        fail(str(error), 1 if error.status >= 500 or error.status == _OVERTAKEN else 2)
    for name in removed:
        say(f"{name}: removed, the file does not name it")
    return Awaited(checked.applications, accepted_at_s=accepted.accepted_at_s)


def compare(checked: CheckedConfig, control: ControlClient) -> None:
    """Say what ``declare`` would take away."""
    for name in removed_by(checked, control.status()):
        say(f"{name}: would be removed, the file does not name it")


def warn_of_what_stays(checked: CheckedConfig, instance: Instance) -> None:
    """Say what the file wants of the instance itself, and will not get."""
    for sentence in options_without_effect(checked, instance.info()):
        say(f"Warning: {sentence}")
