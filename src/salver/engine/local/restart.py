"""When a process that the supervisor keeps up is started again."""

from __future__ import annotations

_HEALTHY_S = 2.0
"""Whoever lives for so long has taken up its work: its end is no failure to start, which waiting is there for."""

_FIRST_S = 0.1
_MOST_S = 30.0


class Restart:
    """At once after it has lived for 2 s, and the first time; else after 0.1 s, doubling to 30 s."""

    def __init__(self) -> None:
        self._delay: float | None = None

    def delay_after(self, lived_s: float) -> float:
        """Seconds to wait, after a life of ``lived_s`` seconds."""
        if lived_s > _HEALTHY_S or self._delay is None:
            self._delay = 0.0
        else:
            self._delay = min(max(self._delay * 2, _FIRST_S), _MOST_S)
        return self._delay
