"""Why a replica leaves: decided once, when it is told to end or ends by itself, and kept until its process is gone.

What comes later does not change it. A replica that was scaled down and had to be killed because it did not finish in
time has left because it was scaled down; how its process ended is told beside that.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Cause(StrEnum):
    """What a replica ended of: the ``FAILURES`` first."""

    START_FAILED = "start_failed"
    """There was never a process, or none that could be reached."""
    CONSTRUCTOR = "constructor"
    """Its constructor, or its first ``reconfigure`` or ``check_health``, raised, took too long or ended it."""
    EXITED = "exited"
    """Its process ended by itself, or somebody killed it: of a signal, for want of memory, with an exit code."""
    HEALTH_CHECK = "health_check"
    HUNG = "hung"
    """It gave no sign of life for ``hang_timeout_s``."""
    RECONFIGURE = "reconfigure"
    """``reconfigure`` did not return in time."""
    NOT_TAKEN_OVER = "not_taken_over"
    """It did not answer the controller that came after one that had died."""
    UNKNOWN = "unknown"
    """It was found when a controller started, and belonged to nothing."""
    RECYCLED = "recycled"
    """``max_rss``, ``max_requests``, or a handler that ignored its cancellation."""
    UPDATED = "updated"
    """Another version, or more room for one, took its place."""
    FAILED_VERSION = "failed_version"
    """What it ran was given up, although nothing was wrong with it."""
    SCALED_DOWN = "scaled_down"
    REMOVED = "removed"
    """Its deployment, or the application, was deleted."""


FAILURES = frozenset(
    {
        Cause.START_FAILED,
        Cause.CONSTRUCTOR,
        Cause.EXITED,
        Cause.HEALTH_CHECK,
        Cause.HUNG,
        Cause.RECONFIGURE,
        Cause.NOT_TAKEN_OVER,
    }
)
"""Nobody had asked for the end."""


class Leaving(Struct, frozen=True):
    """Why a replica leaves; ``reason`` is for people, after the replica's name."""

    cause: Cause
    reason: str


def why_stopped(*, removed: bool, version: str, target: str, failed: bool, worn: str) -> Leaving:
    """The reason of a deployment that stops one of its replicas.

    Args:
        removed: nothing of the deployment is wanted.
        version: of the replica.
        target: the version that is to run.
        failed: the replica's version is given up.
        worn: why the replica is worn; empty when it is not.
    """
    if removed:
        return Leaving(Cause.REMOVED, "its deployment is removed")
    if version == target and worn:
        return Leaving(Cause.RECYCLED, f"a new one replaces it: {worn}")
    if failed:
        return Leaving(Cause.FAILED_VERSION, "its version failed to deploy")
    if version != target:
        return makes_way(target)
    return Leaving(Cause.SCALED_DOWN, "scaled down")


def makes_way(version: str, *, first: bool = False) -> Leaving:
    """The reason of an update to that version, which has replaced it, or needs its room ``first``."""
    return Leaving(Cause.UPDATED, f"makes room for version {version}" if first else f"version {version} replaces it")
