"""Folders that are made once and found again by a hash of what is in them: unpacked archives, installed packages.

They are below ``$XDG_CACHE_HOME/salver`` (``~/.cache/salver``), and may be removed whenever nothing runs. A folder is
made under another name and renamed when it is complete, so that one whose maker was killed is never used; a lock,
which the kernel releases with its holder, lets two makers of the same folder wait for each other. That other name is
new each time: what a killed maker has started (pip) may live on, and write where it began.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from salver.serve.validation import OptionsError, Problem

MADE_WITHIN_S = 3600.0
"""How long one folder may take to be made: the largest packages, over a slow line."""

_ASK_AGAIN_S = 0.2


class NotPreparedError(OptionsError):
    """What a ``runtime_env`` asks for could not be made; that may pass by itself."""


def made_once(kind: str, name: str, make: Callable[[Path], None], progress: Callable[[str], None]) -> Path:
    """The folder ``name`` of this ``kind``; ``make`` fills it if it is not there, or another process does meanwhile.

    Args:
        name: a hash of everything that the contents follow from.
        make: gets an empty folder. What it raises is raised here, and nothing is kept.

    Raises:
        NotPreparedError: the cache cannot be used, or another process takes longer than ``MADE_WITHIN_S``.
    """
    shelf = _shelf(kind)
    folder = shelf / name
    if folder.is_dir():
        return folder
    with _locked(shelf / f"{name}.lock", progress):
        if folder.is_dir():
            return folder
        for left in shelf.glob(f"{name}.new*"):  # by a maker that was killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished = shelf / f"{name}.new-{os.urandom(4).hex()}"
        unfinished.mkdir(mode=0o700)
        try:
            make(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        unfinished.rename(folder)
    return folder


def _shelf(kind: str) -> Path:
    """Where folders of one kind are; ours alone, since code in them is run."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    try:
        cache = (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "salver"
        shelf = cache / kind
        shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = shelf.stat()
    except (OSError, RuntimeError) as error:
        raise _not_prepared(f"its cache cannot be used ({error}): set XDG_CACHE_HOME") from error
    if mode.st_uid != os.getuid() or stat.S_IMODE(mode.st_mode) & 0o022:
        raise _not_prepared(f"{shelf} is another user's, or others may write there: set XDG_CACHE_HOME")
    return shelf


def _not_prepared(why: str) -> NotPreparedError:
    return NotPreparedError([Problem(("runtime_env",), f": {why}")])


@contextmanager
def _locked(path: Path, progress: Callable[[str], None]) -> Generator[None, None, None]:
    with path.open("w") as file:
        give_up_at = time.monotonic() + MADE_WITHIN_S
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise _not_prepared(
                        f"another process holds {path} and has not finished for {MADE_WITHIN_S:.0f} s"
                    ) from None
            if not told:
                progress("waiting for another process that prepares the same runtime_env")
                told = True
            time.sleep(_ASK_AGAIN_S)
        yield
