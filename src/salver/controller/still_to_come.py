"""What an instance was started to run, until that is deployed: the prefixes of applications that are still to come.

``salver run`` begins to listen before it has built anything, and a service manager even before it has started
anything. Whoever comes then is early, not wrong: no 404, the request waits in the proxy. That lasts until the first
deploy; what is deployed later finds an instance that serves, and changes nothing before it is built.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_EVERYTHING = ("/",)
"""Before anybody has said what it will be."""


def has_come(folder: Path) -> bool:
    """Whether something has been deployed to an instance that was started to run something."""
    return _note_of(folder).exists()


def _note_of(folder: Path) -> Path:
    return folder / "deployed"


class StillToCome:
    """Of one instance. A controller that comes after the first deploy awaits nothing.

    Args:
        folder: the instance's; None when nothing is awaited.
        tell: takes the prefixes below which requests are to wait.
    """

    def __init__(self, folder: Path | None, tell: Callable[[tuple[str, ...]], None]) -> None:
        self._come = None if folder is None else _note_of(folder)
        self._prefixes = () if self._come is None or self._come.exists() else _EVERYTHING
        self._tell = tell
        tell(self._prefixes)

    def are(self, prefixes: tuple[str, ...]) -> None:
        """These and no others. Once there are none, there are none for good."""
        if not self._prefixes or prefixes == self._prefixes:
            return
        if not prefixes and self._come is not None:
            with suppress(OSError):  # a full disk: after a crash of the controller requests would wait once more
                self._come.touch()
        self._prefixes = prefixes
        self._tell(prefixes)
