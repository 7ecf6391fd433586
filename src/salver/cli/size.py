"""A number of bytes as people write it on a command line."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def size(value: str) -> int:
    """``1000000``, ``64M``, ``2G`` in bytes; raises ``click.BadParameter`` for anything else, 0 too."""
    found = re.fullmatch(r"(\d{1,15})([KMG]?)", value.upper(), re.ASCII)
    number = int(found[1]) * _UNITS[found[2]] if found else 0
    if not number:
        raise click.BadParameter(f"{value!r} is not a size of at least 1 byte, like 1000000, 64M or 2G.")
    return number
