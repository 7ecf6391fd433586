"""Waiting for applications to run: silently, with a line for each change, or with a picture of it on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from salver.cli.output import say
from salver.controller.client import Control, ControlUnreachable
from salver.errors import ServeException, StartupError
from salver.views import ApplicationView, DeploymentView

if TYPE_CHECKING:
    from rich.table import Table

_LOOK_EVERY_S = 0.2
_LONGEST_POLL_S = 30.0


class Progress(Protocol):
    """Shows how far applications are."""

    def show(self, views: Sequence[ApplicationView]) -> None: ...

    def close(self) -> None: ...


def progress_on_stderr() -> Progress:
    """A picture for a person who watches, lines for everybody else."""
    return _Picture() if sys.stderr.isatty() else _Lines()


def wait_until_running(control: Control, names: Sequence[str], progress: Progress | None = None) -> None:
    """Wait until every application of ``names`` runs; without ``progress`` nothing is shown.

    Raises:
        RuntimeError: one has failed; the message holds its own, with the replica's traceback.
        ServeException: one was deleted meanwhile.
        StartupError: the instance ended.
    """
    try:
        if progress is None:
            for name in names:
                while not _runs(name, control.wait_settled(name, _LONGEST_POLL_S)):
                    pass
        else:
            _watch(control, names, progress)
    except ControlUnreachable as error:
        quoted = ", ".join(f"'{name}'" for name in names)
        were = "was" if len(names) == 1 else "were"
        raise StartupError(f"Salver's processes ended while application {quoted} {were} starting") from error


def _watch(control: Control, names: Sequence[str], progress: Progress) -> None:
    try:
        while True:
            views = {view.name: view for view in control.status().applications if view.name in names}
            progress.show([views[name] for name in names if name in views])
            run = [_runs(name, views.get(name)) for name in names]  # each is asked: any may have failed
            if all(run):
                return
            time.sleep(_LOOK_EVERY_S)
    finally:
        progress.close()


def _runs(name: str, view: ApplicationView | None) -> bool:
    if view is None:
        raise ServeException(f"Application '{name}' was deleted while it was starting.")
    if view.status == "DEPLOY_FAILED":
        raise RuntimeError(f"Deploying application {name} failed: {view.message}")
    return view.status == "RUNNING"


class _Lines:
    """A line whenever the state of an application or the replicas of a deployment are other than before."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def show(self, views: Sequence[ApplicationView]) -> None:
        for view in views:
            self._say(view.name, view.status)
            for deployment in view.deployments:
                self._say(f"{view.name}/{deployment.name}", f"{deployment.status}, {_replicas(deployment)} replicas")

    def _say(self, what: str, state: str) -> None:
        if self._said.get(what) != state:
            self._said[what] = state
            say(f"{what}: {state}")

    def close(self) -> None:
        pass


class _Picture:
    """A table that is drawn again in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=8)
        self._live.start()

    def show(self, views: Sequence[ApplicationView]) -> None:
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
