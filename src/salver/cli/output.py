"""What commands print: data on stdout, talk on stderr, colour only where a person looks."""

from __future__ import annotations

import select
import sys
from typing import NoReturn

import click

_WAIT_S = 5.0
"""For whoever reads to go on reading: what is said after that is lost."""


def fail(message: str, code: int) -> NoReturn:
    """One sentence on stderr, then out."""
    say_error(message)
    sys.exit(code)


def say_error(message: str) -> None:
    """One sentence on stderr."""
    say(f"{click.style('Error:', fg='red')} {message}")


def say(message: str) -> None:
    """Talk on stderr. A terminal that is gone, or stands still, is no reason to stop doing what is being done."""
    try:
        if not _stands_still():
            click.echo(message, err=True)
    except OSError:
        pass


def _stands_still() -> bool:
    try:
        return not select.select([], [sys.stderr], [], _WAIT_S)[1]
    except (OSError, ValueError):  # gone, as whoever writes will hear; or no file at all
        return False


def confirm(question: str, *, yes: bool) -> None:
    """Ask, if there is somebody to ask: on a terminal, and ``yes`` was not said. Ends the command unless agreed."""
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(question, abort=True, err=True)
