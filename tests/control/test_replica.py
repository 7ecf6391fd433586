"""The transition table: complete, ending, and what the documentation shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from scene import application_spec, deployment_spec

from salver.control.diagram import replica_states_document
from salver.control.events import DrainReplica, InitializeReplica, KillReplica, StartReplica
from salver.control.leaving import Cause, Leaving
from salver.control.replica import (
    HISTORY_LENGTH,
    IGNORED,
    LASTING,
    TRANSITIONS,
    InvalidTransition,
    Replica,
    Signal,
    State,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "replica-states.md"
LIVE_STATES = [state for state in State if state is not State.GONE]


def new_replica(now: float = 0.0) -> Replica:
    deployment = deployment_spec()
    return Replica("shop#model#r0", 3, application_spec(deployment), deployment, deployment.resources, (), now)


def test_the_document_is_generated_from_the_table() -> None:
    regenerate = "python -m salver.control.diagram > docs/replica-states.md"
    assert DOCUMENT.read_text() == replica_states_document(), f"run: {regenerate}"


def test_no_signal_is_both_followed_and_ignored() -> None:
    assert not IGNORED & TRANSITIONS.keys()


@pytest.mark.parametrize("state", LIVE_STATES)
def test_an_exit_ends_every_state(state: State) -> None:
    assert TRANSITIONS[state, Signal.EXITED] is State.GONE


@pytest.mark.parametrize("state", [state for state in LIVE_STATES if state not in LASTING])
def test_a_deadline_leads_from_every_unfinished_state_to_the_end(state: State) -> None:
    """To a drain where requests may run, and that has a deadline itself."""
    end = State.DRAINING if state is State.UPDATING else State.KILLING
    assert TRANSITIONS[state, Signal.DEADLINE] is end


@pytest.mark.parametrize("state", [state for state in State if state in LASTING])
def test_a_lasting_state_has_no_deadline(state: State) -> None:
    assert (state, Signal.DEADLINE) not in TRANSITIONS


@pytest.mark.parametrize("state", [state for state in LIVE_STATES if state is not State.KILLING])
def test_every_live_replica_can_be_stopped_in_exactly_one_way(state: State) -> None:
    ways = [signal for signal in (Signal.DRAIN, Signal.KILL) if (state, signal) in TRANSITIONS]
    assert len(ways) == (0 if state is State.DRAINING else 1)


def test_entering_a_state_asks_for_the_next_outcome_and_sets_its_deadline() -> None:
    replica = new_replica()
    deployment = replica.deployment

    assert replica.begin(State.STARTING, 0.0, "start") == [StartReplica("shop#model#r0", 3, deployment)]
    assert replica.deadline == 10.0

    replica.locate(42, "unix:/r0")
    initialize = InitializeReplica("shop#model#r0", "unix:/r0", replica.application, deployment)
    assert replica.take(Signal.PROCESS_STARTED, 1.0) == [initialize]
    assert replica.deadline == 61.0

    assert replica.take(Signal.INITIALIZED, 2.0) == []
    assert replica.deadline is None

    assert replica.stop(3.0, Leaving(Cause.SCALED_DOWN, "scaled down")) == [DrainReplica("shop#model#r0", "unix:/r0")]
    assert replica.deadline == 24.0

    assert replica.take(Signal.DEADLINE, 24.0) == [KillReplica("shop#model#r0")]
    assert replica.deadline == 29.0

    assert replica.take(Signal.DEADLINE, 29.0) == [KillReplica("shop#model#r0")]
    assert replica.deadline == 34.0

    assert replica.take(Signal.EXITED, 30.0) == []
    assert replica.state is State.GONE


def test_a_late_answer_changes_nothing() -> None:
    replica = new_replica()
    replica.begin(State.STARTING, 0.0, "start")
    replica.take(Signal.PROCESS_STARTED, 1.0)
    replica.take(Signal.INITIALIZED, 2.0)

    assert replica.take(Signal.INITIALIZED, 3.0) == []
    assert (replica.state, replica.since, replica.deadline) == (State.RUNNING, 2.0, None)


def test_a_contradiction_raises_and_tells_the_story() -> None:
    replica = new_replica()
    replica.begin(State.STARTING, 5.0, "start")

    with pytest.raises(InvalidTransition) as raised:
        replica.take(Signal.INITIALIZED, 6.0)

    story = str(raised.value)
    assert "shop#model#r0 (slot 3, version v1)" in story
    assert "5.000 GONE -> STARTING: start" in story
    assert "6.000 initialized, which cannot happen in STARTING" in story


def test_the_story_is_bounded() -> None:
    replica = new_replica()
    replica.begin(State.KILLING, 0.0, "found, and belongs to nothing")
    for second in range(1000):
        replica.take(Signal.DEADLINE, float(second))

    assert len(replica.story().splitlines()) == HISTORY_LENGTH + 1
