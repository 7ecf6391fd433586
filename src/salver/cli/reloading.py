"""``--reload``: a child watches the sources, and after each change another one deploys again.

Versions are hashes of content, so only what has changed restarts; and what cannot be built, or does not start, leaves
the version that runs as it is. While nothing runs because the first build has failed, requests wait for the next one,
each for a minute at most: who reads the mistake here is about to mend it, and a page that waits is then shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from salver.cli.following import Hold
from salver.cli.output import fail, say
from salver.cli.source import Source
from salver.controller.still_to_come import has_come
from salver.data.http.early import LONGEST_S
from salver.engine.local.process import fork, kill_group

_CONFIG_SUFFIXES = (".yaml", ".yml")
_SETTLED_AFTER_MS = 100
_MOST_BYTES = 65536
_SHOWN_NAMES = 3
_FAILED = 1


def watchfiles_is_installed() -> bool:
    from importlib.util import find_spec  # only --reload asks

    return find_spec("watchfiles") is not None


def reload_on_changes(hold: Hold, source: Source) -> None:
    """Deploy ``source`` now and after each change, until the instance ends. Only wrong usage ends it before."""
    with _changes(hold, source.watched) as changes:
        if not _next_change(hold, changes):  # the first is the news that it watches: nothing is missed from here on
            return
        code = hold.have_done(source.title, partial(source.deploy, hold.instance))
        if code > _FAILED:
            sys.exit(code)
        hold.tell("READY=1")
        while True:
            if code:
                say(f"{_meanwhile(hold)} Waiting for a change.")
            names = _next_change(hold, changes)
            if not names:
                return
            changed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            say(f"Changed: {_listing(names)}. Deploying again.")
            code = hold.have_done(source.title, partial(source.deploy, hold.instance, changed_at))


def _meanwhile(hold: Hold) -> str:
    """What requests hear until the next build."""
    if hold.launched is None or has_come(hold.instance.folder):
        return "What ran before, if anything did, goes on."
    return f"Nothing has been deployed yet: requests wait, for {LONGEST_S:g} s at most."


def _next_change(hold: Hold, changes: int) -> list[str]:
    """Wait for a change; the names of the files, none when the instance has ended."""
    if not hold.wait_for(changes):
        return []
    names = os.read(changes, _MOST_BYTES).decode(errors="replace").splitlines()
    if not names:
        fail("The process that watches the sources has ended unexpectedly.", 1)
    return names


def _listing(names: list[str]) -> str:
    shown = sorted({os.path.relpath(name) for name in names})
    more = len(shown) - _SHOWN_NAMES
    return ", ".join(shown[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def _changes(hold: Hold, watched: tuple[str, ...]) -> Generator[int]:
    """A descriptor from which the names of changed files can be read."""
    reading, writing = os.pipe()
    pid = fork("salver: watch", partial(_watch, watched, writing), close=[reading, *hold.not_for_children])
    os.close(writing)
    try:
        yield reading
    finally:
        kill_group(pid)
        os.waitpid(pid, 0)
        os.close(reading)


def _watch(watched: tuple[str, ...], writing: int) -> None:
    """What the child does. The first line only says that it watches."""
    from watchfiles import PythonFilter, watch

    found = watch(
        *(Path(place).resolve() for place in watched),
        watch_filter=PythonFilter(extra_extensions=_CONFIG_SUFFIXES),
        step=_SETTLED_AFTER_MS,
        rust_timeout=_SETTLED_AFTER_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    next(found)
    os.write(writing, b"watching\n")
    for changes in found:
        if changes:
            os.write(writing, "".join(f"{name}\n" for _, name in changes).encode(errors="replace")[:_MOST_BYTES])
