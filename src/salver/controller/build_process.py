"""The build job as the controller has it: a child process, what it says, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import Protocol

import msgspec

from salver.controller.build_messages import (
    MAX_MESSAGE_BYTES,
    Accepted,
    BuildMessage,
    BuildRequest,
    Invalid,
    decoded,
)
from salver.controller.refusals import ConfigRefused
from salver.errors import ServeException
from salver.records import CodeContext

CHECK_WITHIN_S = 60.0
BUILD_WITHIN_S = 3600.0
"""Packages may have to be built; without a bound, an import that hangs would stay for ever."""

_END_WITHIN_S = 5.0
_READ_BYTES = 1 << 20


class Build(Protocol):
    """What builds a config, or has."""

    async def begin(self) -> Accepted:
        """Find the config to be right. Raises ConfigRefused, ServeException."""
        ...

    async def next_message(self) -> BuildMessage | None:
        """What has come of an application, None after the last. Raises ValueError."""
        ...

    async def stop(self) -> None:
        """End what goes on. May be called twice."""
        ...


class BuildProcess:
    """One run of ``python -m salver.serve.declared.build_job``. It ends with this process, too."""

    def __init__(self, request: BuildRequest) -> None:
        self._request = request
        self._process: Process | None = None
        self._said_all = False

    async def begin(self) -> Accepted:
        """Start it and wait until it has found the config to be right.

        Raises:
            ConfigRefused: it is wrong.
            ServeException: that could not be found out.
        """
        try:
            async with asyncio.timeout(CHECK_WITHIN_S):
                await self._start()
                answer = await self.next_message()
        except TimeoutError:
            raise ServeException(f"the config was not checked within {CHECK_WITHIN_S:.0f} s") from None
        except (OSError, ValueError) as error:
            raise ServeException(f"the config could not be checked: {error}") from error
        match answer:
            case Accepted():
                return answer
            case Invalid(mistakes=mistakes):
                raise ConfigRefused(mistakes)
            case _:
                raise ServeException(
                    "the process that checks the config has ended; its output is in the controller's log"
                )

    async def _start(self) -> None:
        """Start it and hand it the request. Raises OSError."""
        # -P: what lies in the current folder must not hide modules of ours
        command = (sys.executable, "-P", "-m", "salver.serve.declared.build_job", str(os.getpid()))
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.msgpack.encode(self._request))
        try:
            await self._process.stdin.drain()
        except ConnectionError:
            pass  # it has died; that it says nothing says so
        self._process.stdin.close()

    async def next_message(self) -> BuildMessage | None:
        """The next message, None after the last.

        Raises:
            ValueError: it says something that is no message.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            size = int.from_bytes(await self._process.stdout.readexactly(4), "little")
            if size > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {size} bytes")
            return decoded(await self._process.stdout.readexactly(size))
        except asyncio.IncompleteReadError:
            self._said_all = True
            return None

    async def stop(self) -> None:
        """End it, with the processes that build. May be called twice, and before ``begin``."""
        process, self._process = self._process, None
        if process is None:
            return
        if not self._said_all:  # else it is about to end by itself
            _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await _end_of(process)
        except TimeoutError:
            _send(process, signal.SIGKILL)
            await _end_of(process)
        except asyncio.CancelledError:
            if self._said_all:  # nobody waits for it any more, and nothing is below it
                _send(process, signal.SIGKILL)
            raise


async def _end_of(process: Process) -> None:
    """Wait for it. What it still says is read, for as long as it says something its pipe stays open."""
    assert process.stdout is not None
    while await process.stdout.read(_READ_BYTES):
        pass
    await process.wait()


def _send(process: Process, number: signal.Signals) -> None:
    try:
        if process.returncode is None:
            process.send_signal(number)
    except ProcessLookupError:
        pass


def code_of_this_process() -> CodeContext:
    """The current folder first, as for code that a person starts there."""
    here = os.getcwd()
    paths = (os.path.abspath(entry) if entry else here for entry in sys.path)
    return CodeContext(tuple(dict.fromkeys((here, *paths))), here)
