"""How far applications are, on stderr: a line for each change, or on a terminal a picture below the messages."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol

from salver.cli.output import say
from salver.views import ApplicationView, DeploymentView

if TYPE_CHECKING:
    from rich.table import Table

_LONGEST_MESSAGE = 300


class Progress(Protocol):
    """Shows how far applications are."""

    def show(self, views: Sequence[ApplicationView]) -> None: ...

    def close(self) -> None: ...


def progress_on_stderr() -> Progress:
    """A picture for a person who watches, lines for everybody else."""
    return _Picture() if sys.stderr.isatty() else _Lines()


class _Messages:
    """What applications and deployments say about themselves: a line each, and none again until it changes."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def news(self, view: ApplicationView) -> Generator[str]:
        """The lines about ``view`` that were not said yet. What has failed it is left to whoever says so in full."""
        failure = view.message if view.status == "DEPLOY_FAILED" else None
        of_deployments = {f"{view.name}/{each.name}": each.message for each in view.deployments}
        messages = of_deployments  # the application's is mostly that of one of them
        if view.message not in of_deployments.values():
            messages = {view.name: view.message, **of_deployments}
        for what, message in messages.items():
            brief = _in_brief(message)
            if brief and message != failure and self._said.get(what) != brief:
                self._said[what] = brief
                yield f"{what}: {brief}"


def _in_brief(message: str) -> str:
    """Its first line, which is a summary; of a bare traceback the last, which names the exception."""
    lines = message.strip().splitlines() or [""]
    is_traceback = lines[0].startswith(("Traceback (", 'File "'))  # the latter of a syntax error
    line = (lines[-1] if is_traceback else lines[0]).strip()
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 1]}…"


class _Lines:
    """A line whenever an application's state or message, or a deployment's, is another than before."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._messages = _Messages()

    def show(self, views: Sequence[ApplicationView]) -> None:
        for view in views:
            self._say(view.name, view.status)
            for deployment in view.deployments:
                self._say(f"{view.name}/{deployment.name}", f"{deployment.status}, {_replicas(deployment)} replicas")
            for line in self._messages.news(view):
                say(line)

    def _say(self, what: str, state: str) -> None:
        if self._said.get(what) != state:
            self._said[what] = state
            say(f"{what}: {state}")

    def close(self) -> None:
        pass


class _Picture:
    """A table that is drawn again in place, below the messages, which stay."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._messages = _Messages()
        self._live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=8)
        self._live.start()

    def show(self, views: Sequence[ApplicationView]) -> None:
        from rich.text import Text

        for view in views:
            for line in self._messages.news(view):
                self._live.console.print(Text(line, style="yellow"))
        self._live.update(_table(views))

    def close(self) -> None:
        self._live.stop()


def _table(views: Sequence[ApplicationView]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for view in views:
        table.add_row(Text(view.name, style="bold"), Text(view.status))
        for deployment in view.deployments:
            table.add_row(
                Text(f"  {deployment.name}"), Text(deployment.status), Text(f"{_replicas(deployment)} replicas")
            )
    return table


def _replicas(deployment: DeploymentView) -> str:
    return f"{deployment.replica_states.get('RUNNING', 0)}/{deployment.target_num_replicas}"
