"""Waiting for applications to run: silently, or while somebody watches how far they are."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from salver.cli.awaited import Awaited
from salver.cli.progress import Progress
from salver.controller.client import Control, ControlUnreachable
from salver.errors import ServeException, StartupError
from salver.views import ApplicationView

_LOOK_EVERY_S = 0.2
_LONGEST_POLL_S = 30.0


def wait_until_running(control: Control, names: Sequence[str]) -> None:
    """Wait until every application of ``names`` runs, whoever deployed it.

    Raises:
        RuntimeError: one has failed; the message holds its own, with the replica's traceback.
        ServeException: one was deleted meanwhile.
        StartupError: the instance ended.
    """
    with _until_the_instance_ends(names):
        for name in names:
            while not _runs(name, control.wait_settled(name, _LONGEST_POLL_S)):
                pass


def watch_until_running(control: Control, awaited: Awaited, progress: Progress) -> None:
    """The same for one deploy, with all news of it shown.

    Raises:
        RuntimeError, ServeException, StartupError: as above.
        ServeException: also when a later deploy has replaced it.
    """
    with _until_the_instance_ends(awaited.names):
        try:
            while True:
                status = control.status()
                replaced_at_s = awaited.replaced_at_s(status)
                if replaced_at_s is not None:
                    raise ServeException(replaced_by(awaited.names, replaced_at_s))
                views = awaited.views(status)
                progress.show([views[name] for name in awaited.names if name in views])
                run = [_runs(name, views.get(name)) for name in awaited.names]  # each is asked: any may have failed
                if all(run):
                    return
                time.sleep(_LOOK_EVERY_S)
        finally:
            progress.close()


@contextmanager
def _until_the_instance_ends(names: Sequence[str]) -> Generator[None]:
    try:
        yield
    except ControlUnreachable as error:
        were = "was" if len(names) == 1 else "were"
        raise StartupError(f"Salver's processes ended while application {_quoted(names)} {were} starting") from error


def _runs(name: str, view: ApplicationView | None) -> bool:
    if view is None:
        raise ServeException(f"Application '{name}' was deleted while it was starting.")
    if view.status == "DEPLOY_FAILED":
        raise RuntimeError(f"Deploying application {name} failed: {view.message}")
    return view.status == "RUNNING"


def replaced_by(names: Sequence[str], at_s: float) -> str:
    """What is said of a deploy of ``names`` when a later one was accepted at ``at_s``."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
    return (
        f"a later deploy, accepted at {when}, has replaced this one of {_quoted(names)}. "
        "`salver status` shows what runs, `salver events` what has happened."
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
