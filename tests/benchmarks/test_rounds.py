"""In which order everything is measured."""

from __future__ import annotations

from peers import PEERS
from rounds import Step, plan
from workloads import WORKLOADS


def planned(peers: str, workloads: str, rounds: int) -> list[Step]:
    chosen = [WORKLOADS[name] for name in workloads.split()]
    return plan([PEERS[name] for name in peers.split()], chosen, rounds)


def words(steps: list[Step]) -> list[str]:
    return [f"{step.round} {step.workload.name} {step.peer.name}" for step in steps]


def test_peers_take_turns_within_a_workload_and_every_other_round_goes_backwards() -> None:
    assert words(planned("salver uvicorn", "start noop", 2)) == [
        "0 start salver",
        "0 start uvicorn",
        "0 noop salver",
        "0 noop uvicorn",
        "1 noop uvicorn",
        "1 noop salver",
        "1 start uvicorn",
        "1 start salver",
    ]


def test_a_peer_that_lasts_has_a_stretch_of_its_own_and_starts_first() -> None:
    assert words(planned("salver ray", "start noop composed", 2)) == [
        "0 start salver",
        "0 noop salver",
        "0 composed salver",
        "0 start ray",
        "0 noop ray",
        "0 composed ray",
        "1 start ray",
        "1 composed ray",
        "1 noop ray",
        "1 composed salver",
        "1 noop salver",
        "1 start salver",
    ]


def test_only_what_a_peer_can_express_is_measured_and_some_only_once() -> None:
    assert words(planned("salver uvicorn", "composed footprint", 2)) == [
        "0 composed salver",
        "0 footprint salver",
        "0 footprint uvicorn",
        "1 composed salver",
    ]


def test_whoever_cannot_express_an_application_says_why() -> None:
    for workload in WORKLOADS.values():
        for name in workload.peers:
            peer = PEERS[name]
            assert workload.application in peer.applications or peer.why_not[workload.application]
