"""Places where a test can make the controller die, to see what its successor makes of it.

``SALVER_FAILPOINTS`` names a folder, in the environment of the instance. A file in it with the name of a place means:
end there, as if by SIGKILL. The file is removed first, so that this happens once. Without the variable, which is
looked at when the controller starts, a place costs one ``if``.
"""

from __future__ import annotations

import os
from enum import StrEnum

FOLDER = os.environ.get("SALVER_FAILPOINTS", "")

_EXIT_CODE = 70


class Failpoint(StrEnum):
    """Between any two steps of carrying out a decision."""

    BEFORE_SAVE = "before-save"
    AFTER_SAVE = "after-save"
    BEFORE_START = "before-start"
    AFTER_START = "after-start"
    """The replica's process runs, and we have not noted it."""
    BEFORE_INITIALIZE = "before-initialize"
    BEFORE_PUBLISH = "before-publish"
    AFTER_PUBLISH = "after-publish"
    AFTER_DRAIN = "after-drain"
    """The replica has been told to drain, and we have not noted that it heard it."""
    BEFORE_KILL = "before-kill"
    DECLARED = "declared"
    """A config file's content is saved, and nothing is built."""


def reach(place: Failpoint) -> None:
    """Die here if a test says so."""
    if FOLDER:
        _die_if_told(place)


def _die_if_told(place: Failpoint) -> None:
    try:
        os.unlink(os.path.join(FOLDER, place))
    except FileNotFoundError:
        return
    os._exit(_EXIT_CODE)
