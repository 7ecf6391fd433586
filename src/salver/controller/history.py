"""What has happened: deploys, scale decisions, the ends of replicas, for operators to read afterwards.

The last 1,000 are in memory, and in a file of the instance (``line_file``), so that a controller that is started
again goes on with their numbers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path

import msgspec

from salver.controller.line_file import LineFile
from salver.engine.interface import Restarted
from salver.views import Happening

KEPT = 1000
"""How many happenings an instance remembers."""

_MESSAGE_CHARACTERS = 2000  # a thousand of them are kept in memory, and sent to everyone who asks
_CUT = "\n…\n"

_RESTARTED = {
    "controller": ("the controller", "it is back, everything went on"),
    "proxy": ("a proxy", "it is back; the connections that it had were cut"),
}


class History:
    """The happenings of one instance, oldest first.

    Args:
        path: of its file; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = LineFile(path, Happening, what="events", most=KEPT)
        self._kept = deque(self._file.load(), maxlen=KEPT)
        self._news = asyncio.Event()
        self._ended = False
        self._last = self._kept[-1].number if self._kept else 0

    @property
    def unsaved(self) -> int:
        """How many could not be written to the file."""
        return self._file.unsaved

    @property
    def last(self) -> int:
        """The number of the latest one, 0 when nothing has happened."""
        return self._last

    def add(self, happening: Happening) -> Happening:
        """Record it; what is returned has its number and, unless it had one, the time."""
        self._last += 1
        recorded = msgspec.structs.replace(
            happening,
            number=self._last,
            at_s=happening.at_s or time.time(),
            message=_bounded(happening.message),
        )
        self._kept.append(recorded)
        self._file.save(recorded, lambda: self._kept)
        self._news.set()
        return recorded

    def after(self, number: int, app: str = "", deployment: str = "") -> tuple[Happening, ...]:
        """Those with a higher number, oldest first; of one application or deployment, unless that is empty."""
        return tuple(
            each
            for each in self._kept
            if each.number > number and app in {"", each.app} and deployment in {"", each.deployment}
        )

    async def wait(self, after: int, timeout_s: float) -> bool:
        """Wait until there is one with a higher number than ``after``; whether it came within ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._last <= after and not self._ended:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return self._last > after

    def end_waits(self) -> None:
        """Answer everyone who waits now: nothing more will happen."""
        self._ended = True
        self._news.set()


def happening_of(restart: Restarted) -> Happening:
    """That the controller or a proxy runs again: what became of it, and what that has cost."""
    who, after = _RESTARTED[restart.role]
    often = f" ended {restart.times} times; the last one" if restart.times > 1 else ""
    return Happening(restart.role, f"{who}{often} {restart.cause}; {after}")


def _bounded(message: str) -> str:
    """Without its middle when it is long: a traceback says what was called first, and what went wrong last."""
    if len(message) <= _MESSAGE_CHARACTERS:
        return message
    kept = _MESSAGE_CHARACTERS - len(_CUT)
    return message[: kept // 4] + _CUT + message[-(kept - kept // 4) :]
