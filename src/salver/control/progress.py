"""What the last change of a deployment was about, and whether it has been reached."""

from __future__ import annotations

from enum import Enum


class Goal(Enum):
    """What the last change was about; the value is the deployment's status on the way there."""

    UPDATE = "UPDATING"
    UPSCALE = "UPSCALING"
    DOWNSCALE = "DOWNSCALING"


class Progress:
    """The way to the last goal.

    Attributes:
        goal: the last one.
        automatic: the load has set it: nobody waits for it.
        reached: everything that was wanted ran at least once since then.
    """

    def __init__(self) -> None:
        self.goal = Goal.UPDATE
        self.automatic = False
        self.reached = False

    def update(self) -> None:
        """Something else is wanted."""
        self._begin(Goal.UPDATE, automatic=False)

    def scale(self, before: int, after: int, *, automatic: bool) -> None:
        """Another number is wanted. An update that is under way stays one, unless the load asks."""
        if automatic or self.reached or self.goal is not Goal.UPDATE:
            self._begin(Goal.UPSCALE if after > before else Goal.DOWNSCALE, automatic=automatic)

    def look(self, *, settled: bool, stopping: bool) -> None:
        """Whether it is reached now: all that is wanted runs, and what is not has gone if that was the goal."""
        if settled and not (self.goal is Goal.DOWNSCALE and stopping):
            self.reached = True

    def _begin(self, goal: Goal, *, automatic: bool) -> None:
        self.goal = goal
        self.automatic = automatic
        self.reached = False
