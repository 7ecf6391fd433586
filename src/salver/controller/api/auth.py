"""Who may use the control API over TCP: whoever shows a token."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

Headers = Iterable[tuple[bytes, bytes]]
"""Of an ASGI scope: names in lower case."""

_SCHEME = b"bearer "


def is_authorized(headers: Headers, tokens: Iterable[str]) -> bool:
    """Whether ``Authorization: Bearer`` holds one of the tokens; without tokens nobody is."""
    shown = [value for name, value in headers if name == b"authorization"]
    if len(shown) != 1 or shown[0][: len(_SCHEME)].lower() != _SCHEME:
        return False
    token = shown[0][len(_SCHEME) :].strip()
    matches = [hmac.compare_digest(token, each.encode()) for each in tokens]  # all: time says nothing of which one
    return any(matches)
