"""What the controller says no to; whoever asked has to change something."""

from __future__ import annotations

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
        problems: every one, each with its place.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
