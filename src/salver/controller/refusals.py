"""What the controller says no to; whoever asked has to change something."""

from __future__ import annotations

import time

from salver.controller.build_messages import Mistake
from salver.errors import ServeException


class PrefixTaken(ServeException):
    """Another application has the route prefix."""


class NoSuchApplication(ServeException):
    """There is no application of that name."""

    def __init__(self, app: str) -> None:
        super().__init__(f"Application '{app}' does not exist.")


class NoSuchDeployment(ServeException):
    """There is no deployment of that name in the application."""

    def __init__(self, app: str, deployment: str) -> None:
        super().__init__(f"Deployment '{deployment}' does not exist in application '{app}'.")


class ScalerDisabled(ServeException):
    """The application does not let others decide on its numbers of replicas."""

    def __init__(self, app: str) -> None:
        super().__init__(
            f"Application '{app}' does not take numbers of replicas from outside: deploy it with "
            "external_scaler_enabled=True (and without autoscaling_config) first."
        )


class NothingToRollBackTo(ServeException):
    """No version of the application ran before the one that is wanted now."""

    def __init__(self, app: str) -> None:
        super().__init__(f"Application '{app}' has no earlier version that ran.")


class ConfigRefused(ServeException):
    """A config is wrong; nothing of it was done.

    Attributes:
        mistakes: every one, with its place.
        problems: the same as sentences.
    """

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        self.mistakes = mistakes
        self.problems = tuple(each.message for each in mistakes)
        super().__init__("\n".join(self.problems))


class NoSuchCheck(ServeException):
    """There is no check of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no check '{name}'; one that nobody asks for is given up.")


class TooManyChecks(ServeException):
    """No more configs are checked at a time."""

    def __init__(self, most: int) -> None:
        super().__init__(f"{most} configs are being checked, and no more are at a time: try again in a moment.")


class Overtaken(ServeException):
    """A config was declared since this one began to be checked: the later is to stay."""

    def __init__(self, at_s: float) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
        super().__init__(f"a later deploy, accepted at {when}, has replaced this one.")
