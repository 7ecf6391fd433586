"""What is in files and folders, as a hash: equal contents, equal names in the cache, equal versions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})
"""Where package managers put what is not the user's own."""

_SKIPPED = {"__pycache__", "node_modules", *INSTALLED_FOLDERS}
_AT_MOST = 20_000


def files_below(folder: str, suffix: str = "") -> Iterator[str]:
    """Paths of the files in ``folder`` and below, relative to it, in an order that only names decide.

    Without hidden and generated folders, and what is installed there. Links are followed, to each folder once. It
    ends after 20,000 files or folders: what holds more is no folder of sources, and would keep the user waiting.
    """
    seen: set[tuple[int, int]] = set()
    number = 0
    for path, folders, files in os.walk(folder, followlinks=True):
        here = _identity(path)
        if here is None or here in seen or len(seen) == _AT_MOST:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(suffix) and not name.startswith("."):
                yield os.path.relpath(os.path.join(path, name), folder)
                number += 1
                if number == _AT_MOST:
                    return


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:  # gone by now
        return None
    return found.st_dev, found.st_ino


def hash_of_file(path: str | Path) -> bytes:
    """SHA-256 of what is in it; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


def hash_of_folder(folder: str | Path, without: re.Pattern[str] | None = None) -> bytes:
    """SHA-256 of the names and contents of its files, but for those whose relative path begins like ``without``."""
    digest = hashlib.sha256()
    for name in files_below(str(folder)):
        if without is not None and without.match(name):
            continue
        digest.update(f"\0{name}\0".encode(errors="surrogateescape"))
        digest.update(hash_of_file(os.path.join(folder, name)))
    return digest.digest()
