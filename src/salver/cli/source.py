"""What a command deploys: the application at an import path, or those of a config file.

Whatever needs the user's code, or much of ours, happens in a child: the command itself may stay for long.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Protocol

import click
import msgspec

from salver.cli.application_flags import ApplicationFlags
from salver.cli.children import in_child, wait_for_end
from salver.cli.config_path import is_config_file
from salver.cli.launching import InstanceFlags
from salver.cli.requests import BuildRequest, CheckedConfig
from salver.controller.client import ControlClient
from salver.engine.local.instance import Instance


class Source(Protocol):
    """Something that can be deployed, more than once."""

    @property
    def title(self) -> str:
        """Of the child that deploys it, for ``ps``."""
        ...

    @property
    def watched(self) -> tuple[str, ...]:
        """Folders and files with its sources."""
        ...

    @property
    def application(self) -> str | None:
        """What ends with the command in an instance that was there before."""
        ...

    def told(self, flags: InstanceFlags) -> InstanceFlags:
        """What the instance is to be that it gets: as the flags say, and beneath them a config file."""
        ...

    def deploy(self, instance: Instance, since: float | None = None) -> None:
        """In a child: deploy it, and say when it runs. Exits with 1, 2 or 3 and a sentence when it fails.

        Args:
            since: when it was asked for (CLOCK_BOOTTIME); default when the command began.
        """
        ...


def source_of(
    config_or_import_path: str, arguments: tuple[str, ...], flags: ApplicationFlags, *, starts_instance: bool
) -> Source:
    """Which of the two it is. Exits with 2 when that is not in order."""
    if not is_config_file(config_or_import_path):
        return _ImportPath(config_or_import_path, arguments, flags)
    if not starts_instance:
        raise click.UsageError(
            "A config file says what a whole instance runs: use `salver deploy FILE --instance NAME` to change one."
        )
    refuse_arguments_of_config(arguments, flags)
    return _ConfigFile(config_or_import_path, flags.app_dir)


def refuse_arguments_of_config(arguments: tuple[str, ...], flags: ApplicationFlags) -> None:
    """What a config file says itself cannot be said beside it."""
    if arguments:
        raise click.UsageError("Application arguments cannot be specified for a config file.")
    if not_for_config := flags.only_for_import_paths():
        raise click.UsageError(f"{', '.join(not_for_config)}: not with a config file, which says that itself.")


def build_request(import_path: str, arguments: tuple[str, ...], flags: ApplicationFlags) -> BuildRequest:
    """What the flags say, with their defaults."""
    name = "default" if flags.name is None else flags.name
    prefix = "/" if flags.route_prefix is None else flags.route_prefix
    return BuildRequest(import_path, arguments, flags.app_dir, name, prefix, flags.compat, flags.runtime_env or {})


class _ImportPath:
    def __init__(self, import_path: str, arguments: tuple[str, ...], flags: ApplicationFlags) -> None:
        self._request = build_request(import_path, arguments, flags)
        self._command = os.getpid()
        self.title = f"salver: build {import_path}"
        self.watched = (flags.app_dir,)
        self.application = self._request.name

    def told(self, flags: InstanceFlags) -> InstanceFlags:
        return flags

    def deploy(self, instance: Instance, since: float | None = None) -> None:
        deploying = import_module("salver.cli.deploying")
        deploying.build_and_deploy(self._request, instance)
        deploying.wait_or_fail(instance, [self._request.name])
        began = deploying.beginning_of(self._command) if since is None else since
        deploying.say_ready(deploying.where_it_answers(self._request, instance), instance, began)


class _ConfigFile:
    application = None

    def __init__(self, path: str, app_dir: str) -> None:
        self._path = path
        self._app_dir = app_dir
        self._command = os.getpid()
        self.title = f"salver: deploy {path}"
        self.watched = (app_dir, path)
        self._first = _read_in_child(path, app_dir)

    def told(self, flags: InstanceFlags) -> InstanceFlags:
        ingress = flags.ingress.over(self._first.http_options)
        return InstanceFlags(ingress, flags.stated, flags.admin, flags.log.over(self._first.logging))

    def deploy(self, instance: Instance, since: float | None = None) -> None:
        """Reads the file again: by now it may be another."""
        from salver.cli import checking, declaring, deploying

        read = declaring.read_config(self._path, self._app_dir)
        checked, control = read.checked, ControlClient(instance.control_socket)
        declaring.declare(checked, control, checking.check_by_instance(read, control, to_deploy=True))
        deploying.wait_or_fail(instance, checked.applications)
        began = deploying.beginning_of(self._command) if since is None else since
        deploying.say_ready(instance.info().url, instance, began)


def _read_in_child(path: str, app_dir: str) -> CheckedConfig:
    """Have a child check the file: checking takes a library that this process would carry for as long as it stays."""
    reading, writing = os.pipe()
    data = bytearray()

    def main() -> None:
        checked: CheckedConfig = import_module("salver.cli.declaring").read_config(path, app_dir).checked
        with open(writing, "wb") as result:
            result.write(msgspec.msgpack.encode(checked))

    def receive(end: int) -> None:
        os.close(writing)
        with open(reading, "rb") as result:
            data.extend(result.read())
        wait_for_end(end)

    code = in_child(f"salver: check {path}", main, close=[reading], wait=receive)
    if code:
        sys.exit(code)
    return msgspec.msgpack.decode(data, type=CheckedConfig)
