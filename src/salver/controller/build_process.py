"""The build job as the controller has it: a child process, what it says, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import msgspec

from salver.controller.build_messages import MAX_MESSAGE_BYTES, BuildMessage, BuildRequest, decoded

_END_WITHIN_S = 5.0
_READ_BYTES = 1 << 20


class BuildProcess:
    """One run of ``python -m salver.serve.declared.build_job``. It ends with this process, too."""

    def __init__(self, request: BuildRequest) -> None:
        self._request = request
        self._process: Process | None = None

    async def start(self) -> None:
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
            return None

    async def stop(self) -> None:
        """End it, with the processes that build. May be called twice, and before ``start``."""
        process, self._process = self._process, None
        if process is None:
            return
        _send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await _end_of(process)
        except TimeoutError:
            _send(process, signal.SIGKILL)
            await _end_of(process)


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
