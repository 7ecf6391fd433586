"""The order of the measurements, and their run.

A round measures every workload on every peer once. Peers that start in a moment are interleaved within a workload,
each alone on the machine: started, measured, stopped. Ray takes half a minute to start and works when it is idle (its
processes take some percent of a core), so it is up for a stretch of its own in each round and gets all workloads in a
row, while nothing else runs. Every other round goes backwards, so that a machine that drifts treats all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from peers.peer import Peer
from results import Results
from samples import Size
from workloads import Workload

START_S = {"salver": 1.0, "ray": 4.0, "ray-tuned": 4.0, "litserve": 5.0, "bentoml": 5.0, "mosec": 2.0}
FEW_S = 1.0
LASTING_START_S = 30.0


@dataclass(frozen=True, slots=True)
class Step:
    """One workload on one peer in one round."""

    round: int
    peer: Peer
    workload: Workload


def plan(peers: Sequence[Peer], workloads: Sequence[Workload], rounds: int) -> list[Step]:
    """Every step in its order."""
    return [step for number in range(rounds) for step in _round(number, peers, workloads)]


def _round(number: int, peers: Sequence[Peer], workloads: Sequence[Workload]) -> Iterator[Step]:
    """The interleaved stretch and one for each lasting peer, whose start comes first: it is up from then on."""
    direction = 1 if number % 2 == 0 else -1
    interleaved = [Step(number, peer, workload) for workload in workloads for peer in peers if not peer.lasting]
    stretches = [interleaved[::direction]]
    for peer in peers:
        if peer.lasting:
            stretch = [Step(number, peer, workload) for workload in workloads[::direction]]
            stretches.append(sorted(stretch, key=lambda step: step.workload.name != "start"))
    for stretch in stretches[::direction]:
        yield from (step for step in stretch if _measured(step))


def _measured(step: Step) -> bool:
    workload = step.workload
    can_be = step.peer.name in workload.peers and workload.application in step.peer.applications
    return can_be and (step.round == 0 or not workload.once)


def run(
    steps: Sequence[Step], size: Size, results: Results, tell: Callable[[str], None], save: Callable[[], None]
) -> None:
    """Measures; a step that fails is recorded and the rest goes on. `save` is called after each step: an
    interrupted run keeps what it has."""
    clock = Clock(steps, size)
    for number, of_round in groupby(enumerate(steps), key=lambda item: item[1].round):
        for index, step in of_round:
            tell(f"round {number + 1} · {step.workload.name} · {step.peer.name} · {clock.left(index)}")
            begin = time.monotonic()
            _measure(step, size, results, tell)
            clock.took(step, time.monotonic() - begin)
            if step.peer.lasting and (index + 1 == len(steps) or steps[index + 1].peer is not step.peer):
                step.peer.close()
            save()


def _measure(step: Step, size: Size, results: Results, tell: Callable[[str], None]) -> None:
    cell = results.cell(step.workload.name, step.peer.name)
    try:
        cell.samples[step.round] = step.workload.measure(step.peer, size)
    except Exception as error:  # noqa: BLE001 - whatever a server or its client does, the others can be measured
        cell.error = f"{type(error).__name__}: {error}"
        tell(f"  {step.workload.name} on {step.peer.name} failed: {cell.error[:300]}")
        step.peer.close()


class Clock:
    """How much time is left: what each step took the last time, or what the table guesses."""

    def __init__(self, steps: Sequence[Step], size: Size) -> None:
        self._steps = steps
        self._share = size.seconds / Size().seconds
        self._took: dict[tuple[str, str], float] = {}

    def took(self, step: Step, seconds: float) -> None:
        self._took[step.workload.name, step.peer.name] = seconds

    def left(self, index: int) -> str:
        seconds = sum(self._guess(step) for step in self._steps[index:])
        return f"{index + 1} of {len(self._steps)} · about {seconds / 60:.0f} min left"

    def total_s(self) -> float:
        return sum(self._guess(step) for step in self._steps)

    def _guess(self, step: Step) -> float:
        known = self._took.get((step.workload.name, step.peer.name))
        if known is not None:
            return known
        start = (
            LASTING_START_S
            if step.peer.lasting and step.workload.name == "start"
            else START_S.get(step.peer.name, FEW_S)
        )
        return start + self._share * step.workload.seconds
