"""``docs/replica-states.md``, from the table that the code follows.

Write it anew after a change of the table::

    python -m salver.control.diagram > docs/replica-states.md
"""

from __future__ import annotations

import sys

from salver.control.replica import (
    DRAIN_MARGIN_S,
    IGNORED,
    KILL_TIMEOUT_S,
    START_TIMEOUT_S,
    TRANSITIONS,
    Signal,
    State,
)

_STATES: dict[State, tuple[str, str, str]] = {
    State.STARTING: ("a process was asked for", "no", f"{START_TIMEOUT_S:g} s"),
    State.INITIALIZING: ("the process runs; the user's constructor does", "no", "`startup_timeout_s`"),
    State.RECOVERING: ("found after a controller restart, asked what it is", "yes", "`startup_timeout_s`"),
    State.RUNNING: ("takes requests", "yes", "none"),
    State.DRAINING: (
        "finishes what it runs",
        "no",
        f"`graceful_shutdown_timeout_s` + {DRAIN_MARGIN_S:g} s",
    ),
    State.KILLING: ("was sent SIGKILL", "no", f"{KILL_TIMEOUT_S:g} s, then it is sent again"),
}

_BEGINNINGS = (
    (State.STARTING, "start"),
    (State.RECOVERING, "found at a restart"),
    (State.KILLING, "found, belongs to nothing"),
)


def replica_states_document() -> str:
    """The whole document, as Markdown."""
    return "\n".join(
        [
            "# The states of a replica",
            "",
            "Generated from the table in `salver/control/replica.py`: do not edit, run",
            "`python -m salver.control.diagram > docs/replica-states.md`.",
            "",
            "```mermaid",
            *_diagram(),
            "```",
            "",
            "| state | meaning | routed to | deadline |",
            "|---|---|---|---|",
            *(f"| {state.value} | {' | '.join(texts)} |" for state, texts in _STATES.items()),
            "",
            "Late or repeated answers are normal and change nothing:",
            "",
            *_ignored(),
            "",
            "Anything else contradicts what the replica has done so far and raises `InvalidTransition`.",
            "",
        ]
    )


def _diagram() -> list[str]:
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, signal), following in TRANSITIONS.items():
        edges.setdefault((state, following), []).append(signal.value)
    return [
        "stateDiagram-v2",
        *(f"    [*] --> {state.value}: {label}" for state, label in _BEGINNINGS),
        *(f"    {a.value} --> {_target(b)}: {' / '.join(labels)}" for (a, b), labels in edges.items()),
    ]


def _target(state: State) -> str:
    return "[*]" if state is State.GONE else state.value


def _ignored() -> list[str]:
    lines: list[str] = []
    for state in State:
        signals = [signal.value for signal in Signal if (state, signal) in IGNORED]
        if signals:
            lines.append(f"- {state.value}: {', '.join(signals)}")
    return lines


if __name__ == "__main__":
    sys.stdout.write(replica_states_document())
