"""Amounts of memory as people write them: a number of bytes, or a text like ``2 GiB``."""

from __future__ import annotations

import re

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,6})?)\s*(?P<prefix>[kmgt]?)(?P<unit>|b|ib)", re.IGNORECASE)


def bytes_of(size: object) -> object:
    """``size`` in bytes when it is a text that says so, else ``size`` itself.

    ``K``, ``KiB`` and so on are powers of 1024, ``kB`` and so on powers of 1000.
    """
    found = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if found is None:
        return size
    decimal = found["unit"].lower() == "b" and found["prefix"]
    return round(float(found["number"]) * (1000 if decimal else 1024) ** _POWERS[found["prefix"].lower()])
