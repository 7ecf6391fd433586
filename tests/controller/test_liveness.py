"""Who is accused of silence, who of blocking, and who of nothing. A real board; time is ours."""

from __future__ import annotations

import asyncio

import pytest

from salver.control.events import Event, ReplicaResponsive, ReplicaSilent
from salver.controller.liveness import Liveness
from salver.data.load_board import LoadBoard

ROUND_S = 0.25


class Scene:
    """Replicas whose beats the test writes, and a watcher whose rounds it makes.

    Attributes:
        now: of the watcher's clock.
        alive: slots whose control threads beat.
        blocked: slots whose loops owe an answer, since when.
    """

    def __init__(self, board: LoadBoard) -> None:
        self.board = board
        self.now = 5000.0
        self.alive: set[int] = set()
        self.blocked: dict[int, float] = {}
        self.told: list[Event] = []
        self.liveness = Liveness(board, self.told.append, clock=lambda: self.now)

    def beat(self) -> None:
        for slot in self.alive:
            self.board.beats[slot] = int(self.now * 1000)
            self.board.loop_beats[slot] = int(min(self.now, self.blocked.get(slot, self.now)) * 1000)

    def pass_(self, seconds: float) -> list[Event]:
        """Time passes, evenly, with everybody's rounds; what was told meanwhile."""
        before = len(self.told)
        for _ in range(round(seconds / ROUND_S)):
            self.now += ROUND_S
            self.beat()
            self.liveness.check()
        return self.told[before:]

    def silent_after(self, hung: bool) -> float:
        """Let time pass until somebody is said to be silent; seconds that it took."""
        before = self.now
        while self.now < before + 10:
            for event in self.pass_(ROUND_S):
                assert isinstance(event, ReplicaSilent)
                assert event.hung is hung
                return self.now - before
        raise AssertionError("nobody was accused")


@pytest.fixture
def scene() -> Scene:
    return Scene(LoadBoard())


def kinds(events: list[Event]) -> list[tuple[str, str | bool]]:
    return [
        (event.replica_id, event.hung if isinstance(event, ReplicaSilent) else "well")
        for event in events
        if isinstance(event, ReplicaSilent | ReplicaResponsive)
    ]


def test_whoever_beats_is_well(scene: Scene) -> None:
    scene.alive = {0, 3}
    scene.liveness.watch("a", 0)
    scene.liveness.watch("b", 3)
    assert scene.pass_(60) == []


def test_whoever_stops_beating_is_hung_after_two_seconds_and_well_when_it_beats_again(scene: Scene) -> None:
    scene.alive = {0, 1}
    scene.liveness.watch("a", 0)
    scene.liveness.watch("b", 1)
    scene.pass_(5)
    scene.alive = {1}
    assert scene.silent_after(hung=True) == 2.0
    assert kinds(scene.pass_(60)) == [], "it is told once"
    scene.alive = {0, 1}
    assert scene.pass_(1) == [ReplicaResponsive("a")]
    assert scene.pass_(60) == []


def test_a_blocked_loop_is_told_with_its_place(scene: Scene) -> None:
    scene.alive = {2}
    scene.liveness.watch("a", 2)
    scene.pass_(5)
    scene.blocked[2] = scene.now
    scene.board.set_place(2, "app.py:12")
    assert scene.silent_after(hung=False) == 2.0
    assert scene.told == [ReplicaSilent("a", "its event loop has been blocked for 2 s (at app.py:12)", hung=False)]
    assert scene.pass_(10) == []
    del scene.blocked[2]
    assert scene.pass_(1) == [ReplicaResponsive("a")]


def test_changes_between_hung_and_blocked_are_told(scene: Scene) -> None:
    scene.alive = {2}
    scene.liveness.watch("a", 2)
    scene.pass_(5)
    scene.blocked[2] = scene.now
    events = scene.pass_(3)
    scene.alive = set()
    events += scene.pass_(3)
    scene.alive = {2}
    events += scene.pass_(3)
    scene.blocked = {}
    events += scene.pass_(3)
    assert kinds(events) == [("a", False), ("a", True), ("a", False), ("a", "well")]


def test_whoever_has_never_beaten_is_not_accused(scene: Scene) -> None:
    scene.liveness.watch("a", 0)
    assert scene.pass_(600) == []
    scene.alive = {0}
    assert scene.pass_(600) == []


def test_short_silences_are_nobodys_business(scene: Scene) -> None:
    scene.alive = {0}
    scene.liveness.watch("a", 0)
    for _ in range(20):
        scene.pass_(1)
        scene.alive = set()
        scene.pass_(1.5)
        scene.alive = {0}
    assert scene.told == []


@pytest.mark.parametrize("away_s", [1.0, 3.0, 3600.0])
def test_after_being_away_itself_it_gives_everybody_the_whole_time(scene: Scene, away_s: float) -> None:
    scene.alive = {0}
    scene.liveness.watch("a", 0)
    scene.pass_(5)
    scene.now += away_s  # the machine was suspended: nobody ran, and we are the first to run again
    scene.liveness.check()
    assert scene.told == []
    scene.alive = set()
    assert scene.silent_after(hung=True) == 2.0


def test_who_was_hung_before_we_were_away_is_not_called_well(scene: Scene) -> None:
    scene.alive = {0}
    scene.liveness.watch("a", 0)
    scene.pass_(5)
    scene.alive = set()
    scene.silent_after(hung=True)
    scene.now += 100
    assert scene.pass_(10) == []
    scene.alive = {0}
    assert scene.pass_(1) == [ReplicaResponsive("a")]


def test_who_hung_before_it_was_watched_is_found_out(scene: Scene) -> None:
    scene.alive = {0}
    scene.pass_(5)
    scene.alive = set()
    scene.pass_(60)
    scene.liveness.watch("a", 0)  # by the next controller
    assert scene.silent_after(hung=True) == 2.0


def test_the_forgotten_are_left_alone_also_when_what_is_told_makes_them_so(scene: Scene) -> None:
    def tell(event: Event) -> None:
        scene.told.append(event)
        scene.liveness.forget("a")
        scene.liveness.forget("b")

    scene.liveness = Liveness(scene.board, tell, clock=lambda: scene.now)
    scene.alive = {0, 1}
    scene.liveness.watch("a", 0)
    scene.liveness.watch("b", 1)
    scene.liveness.forget("unknown")
    scene.pass_(5)
    scene.alive = set()
    assert kinds(scene.pass_(60)) == [("a", True)]


def test_another_replica_in_the_same_slot_starts_from_nothing(scene: Scene) -> None:
    scene.alive = {0}
    scene.liveness.watch("a", 0)
    scene.pass_(5)
    scene.alive = set()
    scene.pass_(5)
    scene.liveness.forget("a")
    scene.board.beats[0] = scene.board.loop_beats[0] = 0  # as the supervisor does before it forks
    scene.liveness.watch("b", 0)
    assert kinds(scene.told) == [("a", True)]
    assert scene.pass_(60) == []


def test_it_looks_by_itself_while_somebody_is_watched() -> None:
    async def main() -> None:
        board = LoadBoard()
        found = asyncio.Queue[Event]()
        liveness = Liveness(board, found.put_nowait)
        liveness.start()
        board.beats[0] = board.loop_beats[0] = 1  # long ago
        liveness.watch("a", 0)
        async with asyncio.timeout(20):
            event = await found.get()
        assert kinds([event]) == [("a", True)]
        liveness.forget("a")
        liveness.watch("a", 0)
        liveness.stop()
        liveness.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others
        board.close()

    asyncio.run(main())
