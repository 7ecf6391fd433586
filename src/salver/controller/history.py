"""What has happened: deploys, scale decisions, the ends of replicas, for operators to read afterwards.

The last 1,000 are in memory, and as JSON lines in a file of the instance, so that a controller that is started again
goes on with their numbers. The file is no state: a line that is cut off or damaged is passed over, and when the disk
is full, serving matters more than remembering.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from pathlib import Path

import msgspec

from salver.engine.interface import Restarted
from salver.views import Happening

logger = logging.getLogger("salver.controller")

KEPT = 1000
"""How many happenings an instance remembers."""

_LINE_BYTES = 64 * 1024
_MESSAGE_CHARACTERS = 2000  # a thousand of them are kept in memory, and sent to everyone who asks
_CUT = "\n…\n"
_decoder = msgspec.json.Decoder(Happening)

_RESTARTED = {
    "controller": ("the controller", "it is back, everything went on"),
    "proxy": ("a proxy", "it is back; the connections that it had were cut"),
}


class History:
    """The happenings of one instance, oldest first.

    Args:
        path: of its file; None keeps them in memory only.

    Attributes:
        unsaved: how many could not be written to the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._lines = 0
        self._begin_line = b""
        self._news = asyncio.Event()
        self._ended = False
        self.unsaved = 0
        self._load()
        self._last = self._kept[-1].number if self._kept else 0

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
        self._save(recorded)
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

    # --- the file ---------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                while line := file.readline(_LINE_BYTES):
                    self._lines += 1
                    self._begin_line = b"" if line.endswith(b"\n") else b"\n"
                    try:
                        self._kept.append(_decoder.decode(line))
                    except msgspec.DecodeError:
                        continue  # cut off when the disk was full, or when the machine lost power
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("past events cannot be read from %s: %s", self._path, error)

    def _save(self, happening: Happening) -> None:
        if self._path is None:
            return
        line = self._begin_line + msgspec.json.encode(happening) + b"\n"
        try:
            if self._lines >= 2 * KEPT:
                self._rewrite(self._path)
                return
            written = self._append(self._path, line)
            if written != len(line):
                raise OSError("the disk is full")  # noqa: TRY301 - a short write is the same as none
            self._lines += 1
            self._begin_line = b""
        except OSError as error:
            self._begin_line = b"\n"  # part of a line may be there
            self.unsaved += 1
            if self.unsaved == 1:
                logger.warning("events are kept in memory only, %s cannot be written: %s", self._path, error)

    def _append(self, path: Path, line: bytes) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _rewrite(self, path: Path) -> None:
        """Drop from the file what memory has dropped."""
        temporary = path.with_suffix(".new")
        try:
            temporary.unlink(missing_ok=True)
            lines = b"".join(msgspec.json.encode(each) + b"\n" for each in self._kept)
            if self._append(temporary, lines) != len(lines):
                raise OSError("the disk is full")  # noqa: TRY301
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._lines = len(self._kept)
        self._begin_line = b""


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
