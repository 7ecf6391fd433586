"""What went wrong with a replica, in words for the person who reads the status."""

from __future__ import annotations

from msgspec import Struct

from salver.control.leaving import Cause
from salver.control.replica import START_TIMEOUT_S, Replica, Signal, State

FAILURES = frozenset(
    {Signal.START_FAILED, Signal.INITIALIZE_FAILED, Signal.UNHEALTHY, Signal.EXITED, Signal.DEADLINE}
)
"""Signals that end a replica which was wanted."""


class Failure(Struct, frozen=True):
    """The end of a replica that its deployment wanted.

    Attributes:
        in_constructor: it never got to take a request; the version may be to blame.
        trigger: the reference's status trigger.
        message: the first line is a summary, the user's traceback follows when there is one.
        replaced: another replica is started for it.
    """

    in_constructor: bool
    trigger: str
    message: str
    replaced: bool = False


def failure_of(replica: Replica, before: State, signal: Signal, detail: str) -> Failure | None:
    """The failure that took ``replica`` out of the state ``before``; None when it was none."""
    if signal not in FAILURES:
        return None
    match before:
        case State.STARTING:
            return _startup_failure(_start_message(replica, signal, detail))
        case State.INITIALIZING:
            return _startup_failure(_constructor_message(replica, signal, detail))
        case State.RUNNING | State.RECOVERING | State.UPDATING | State.BLOCKED | State.HUNG:
            message = _loss_message(replica, before, signal, detail)
            trigger = "HEALTH_CHECK_FAILED" if signal is Signal.UNHEALTHY else "UNSPECIFIED"
            return Failure(in_constructor=False, trigger=trigger, message=message, replaced=True)
        case State.DRAINING | State.KILLING | State.GONE:
            return None


def cause_of(before: State, signal: Signal) -> Cause:
    """The same in one word."""
    match before, signal:
        case State.STARTING, _:
            return Cause.START_FAILED
        case State.INITIALIZING, _:
            return Cause.CONSTRUCTOR
        case _, Signal.EXITED:
            return Cause.EXITED
        case _, Signal.UNHEALTHY:
            return Cause.HEALTH_CHECK
        case State.HUNG, _:
            return Cause.HUNG
        case State.UPDATING, _:
            return Cause.RECONFIGURE
        case _:
            return Cause.NOT_TAKEN_OVER


def summary_of(failure: Failure, without: Replica | None = None) -> str:
    """The first line of its message; ``without`` a replica's name, where that has been said."""
    text = failure.message.partition("\n")[0]
    if without is None:
        return text
    name = f"replica {without.replica_id}"
    return text.replace(f" of {name}", "", 1).replace(f"{name} ", "", 1)


def what_follows(failure: Failure, wait_s: float) -> str:
    """To be put after its message: what becomes of the replica's place, and in how many seconds."""
    if not failure.replaced:
        return ""
    return "; a new one is starting" if wait_s <= 0 else f"; the next one starts in {in_words(wait_s)}"


def in_words(seconds: float) -> str:
    """A time, as exactly as people want to know it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _startup_failure(message: str) -> Failure:
    return Failure(in_constructor=True, trigger="REPLICA_STARTUP_FAILED", message=message)


def _start_message(replica: Replica, signal: Signal, detail: str) -> str:
    if signal is Signal.DEADLINE:
        return f"the process of replica {replica.replica_id} did not start within {START_TIMEOUT_S:g} s"
    if signal is Signal.EXITED:
        return f"{_exit_message(replica, detail)} before it could be reached"
    return f"replica {replica.replica_id} could not be started: {detail}"


def _constructor_message(replica: Replica, signal: Signal, detail: str) -> str:
    name = replica.deployment_id.name
    if signal is Signal.DEADLINE:
        return f"constructor of {name} did not return within {replica.deployment.startup_timeout_s:g} s"
    if signal is Signal.EXITED:
        return f"{_exit_message(replica, detail)} before its constructor returned"
    text = f"{replica.initializing} of {name} failed: {_last_line(detail)}"
    return f"{text}\n{detail}" if "\n" in detail.strip() else text


def _loss_message(replica: Replica, before: State, signal: Signal, detail: str) -> str:
    if signal is Signal.EXITED:
        return _exit_message(replica, detail)
    if signal is Signal.UNHEALTHY:
        return f"replica {replica.replica_id} {detail}"
    if before is State.HUNG:
        return f"replica {replica.replica_id} was silent for {replica.deployment.hang_timeout_s:g} s and is killed"
    if before is State.UPDATING:
        timeout_s = replica.deployment.startup_timeout_s
        return f"reconfigure of replica {replica.replica_id} did not return within {timeout_s:g} s"
    after = "after the controller restarted"
    if signal is Signal.DEADLINE:
        timeout_s = replica.deployment.startup_timeout_s
        return f"replica {replica.replica_id} did not answer within {timeout_s:g} s {after}"
    return f"replica {replica.replica_id} could not be taken over {after} ({_last_line(detail)})"


def _exit_message(replica: Replica, cause: str) -> str:
    verb = "was " if cause.startswith("killed") else ""
    return f"replica {replica.replica_id} {verb}{cause}"


def _last_line(text: str) -> str:
    """The line of a Python traceback that names the exception."""
    return text.strip().rpartition("\n")[2]
