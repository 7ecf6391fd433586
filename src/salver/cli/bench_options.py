"""What people write after the options of ``salver bench``, as values; each mistake with what would be right."""

from __future__ import annotations

import re

import click

from salver.bench.objective import Objective, ObjectiveError, parse
from salver.bench.request import RequestError, parse_header

_is_number = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII).fullmatch
_is_duration = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|)", re.ASCII).fullmatch
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST_S = 0.001
_LONGEST_S = 24 * 3600.0
_RATES = (0.001, 1_000_000)


def pause(value: str) -> float:
    """Like ``duration``, and 0 too."""
    found = _is_duration(value)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else -1.0
    if not 0 <= seconds <= _LONGEST_S:
        raise click.BadParameter(f"{value!r} is not a time of up to 24h, like 500ms, 10s, 2m or 10.")
    return seconds


def duration(value: str) -> float:
    """``500ms``, ``10s``, ``2m`` or ``10`` in seconds; raises ``click.BadParameter`` for anything else."""
    seconds = pause(value)
    if seconds < _SHORTEST_S:
        raise click.BadParameter(f"{value!r} is too short: at least 1ms.")
    return seconds


def rates(value: str) -> tuple[float | None, ...]:
    """``1000`` or ``500,1000,max`` as requests per second, None for ``max``; raises ``click.BadParameter``."""
    return tuple(_rate(each.strip()) for each in value.split(","))


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    rate = float(text) if _is_number(text) else 0.0
    least, most = _RATES
    if not least <= rate <= most:
        raise click.BadParameter(f"{text!r} is not a rate: requests per second, {least:g} to {most:,}, or max.")
    return rate


def objective(value: str) -> Objective:
    """``p99<50ms``; raises ``click.BadParameter`` with the place of the mistake."""
    try:
        return parse(value)
    except ObjectiveError as error:
        raise click.BadParameter(str(error)) from None


def header(value: str) -> tuple[str, str]:
    """``Name: value``; raises ``click.BadParameter``."""
    try:
        return parse_header(value)
    except RequestError as error:
        raise click.BadParameter(str(error)) from None
