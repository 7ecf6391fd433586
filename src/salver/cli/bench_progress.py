"""How far a measurement is, in one line on a terminal.

The line is written by hand: Rich takes milliseconds to draw, in which the generator would send nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from shutil import get_terminal_size

import click

from salver.bench.course import Moment

_CLEAR = "\r\x1b[K"


@contextmanager
def progress_line() -> Generator[Callable[[Moment], None] | None]:
    """What shows progress on stderr, until the block ends; None when nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield _show
    finally:
        click.echo(_CLEAR, err=True, nl=False)


def _show(moment: Moment) -> None:
    click.echo(_CLEAR + _line(moment)[: get_terminal_size().columns - 1], err=True, nl=False)


def _line(moment: Moment) -> str:
    """``2/3 · 1000/s · 4 s of 11 s · 3,012 answers, 2 without``"""
    run = f"{moment.run}/{moment.runs} · " if moment.runs > 1 else ""
    rate = "as fast as it answers" if moment.rate is None else f"{moment.rate:g}/s"
    left = moment.total_s - moment.elapsed_s
    when = f"{moment.elapsed_s:.0f} s of {moment.total_s:g} s" if left > 0 else "waiting for the last answers"
    failures = moment.tally.failures.total()
    return f"{run}{rate} · {when} · {moment.tally.answers:,} answers" + (
        f", {failures:,} without" if failures else ""
    )
