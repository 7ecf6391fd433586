"""Tells code above the data plane that a replica is leaving: what holds requests back there lets them go.

The direction is the reason for this module: ``serve`` may import ``data``, never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def on_drain(listener: Callable[[str], None]) -> None:
    """Call ``listener`` with the id of each replica of this process that begins to drain; it must not raise."""
    _listeners.append(listener)


def announce_drain(replica_id: str) -> None:
    """A replica takes nothing new from now on."""
    for listener in _listeners:
        listener(replica_id)
