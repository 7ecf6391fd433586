"""stdin, stdout and stderr of a process that was started without: ``>&-`` in a shell, or a daemon that closes them.

What such a process opens first becomes its stdout: a socket, to which user code then prints, in the middle of what
others say on it. And Python has None in place of a stream. So before anything is opened there is ``/dev/null``.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast


def open_standard_streams() -> None:
    """Have descriptors 0, 1 and 2, for children too, and Python's streams on them. What is there is left alone."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if cast(TextIO | None, getattr(sys, name)) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
