"""The flags that say how a new instance logs. The command gets them as one record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from msgspec import Struct

from salver.cli.sections import SectionedOption
from salver.records import LoggingSpec

_SECTION = "Logs"


class LogFlags(Struct, frozen=True):
    """What the user said about the logs of a new instance.

    Attributes:
        spec: with defaults for what was not said.
        given: names of its fields that were.
    """

    spec: LoggingSpec = LoggingSpec()
    given: tuple[str, ...] = ()

    def over(self, config: LoggingSpec) -> LoggingSpec:
        """A config file's, with what was said here instead."""
        return msgspec.structs.replace(config, **{name: getattr(self.spec, name) for name in self.given})


def _level(value: str) -> int:
    number = int(value) if value.isdecimal() else logging.getLevelNamesMapping().get(value.upper())
    if number is None:
        raise click.BadParameter(f"{value!r} is no level of logging, like INFO or 20.")
    return number


_FIELDS = {
    "log_format": "encoding",
    "log_level": "log_level",
    "logs_dir": "logs_dir",
    "access_log": "enable_access_log",
}
_FLAGS = (
    click.option(
        "--log-format",
        cls=SectionedOption,
        section=_SECTION,
        type=click.Choice(["text", "json"], case_sensitive=False),
        help="Lines for people, or an object per line for programs.",
    ),
    click.option(
        "--log-level",
        cls=SectionedOption,
        section=_SECTION,
        default="INFO",
        type=_level,
        metavar="LEVEL",
        help="Least level shown.",
    ),
    click.option(
        "--logs-dir", cls=SectionedOption, section=_SECTION, metavar="FOLDER", help="Where log files are kept."
    ),
    click.option(
        "--access-log/--no-access-log",
        cls=SectionedOption,
        section=_SECTION,
        default=True,
        help="Whether each HTTP request is logged.",
    ),
)


def log_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command that starts an instance; it gets them as one argument, ``log``."""

    @wraps(command)
    def with_log(
        log_format: str | None, log_level: int, logs_dir: str | None, access_log: bool, **values: Any
    ) -> None:
        source = click.get_current_context().get_parameter_source
        given = tuple(field for flag, field in _FIELDS.items() if source(flag) is ParameterSource.COMMANDLINE)
        if given and values.get("instance") is not None:
            raise click.UsageError("The flags of logs are those of a new instance: not with --instance.")
        spec = LoggingSpec(
            encoding=(log_format or "").upper(),
            log_level=log_level,
            logs_dir=logs_dir or "",
            enable_access_log=access_log,
        )
        command(log=LogFlags(spec, given), **values)

    for flag in reversed(_FLAGS):
        with_log = flag(with_log)
    return with_log
