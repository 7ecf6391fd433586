"""One process that runs the autoscaling policies of one application, from the controller's side.

Users' code does not run in the controller: it may hang, eat memory or end the process. Its process is started by
name, for it is a layer above this one, and ends with its pipes, so it cannot outlive the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import msgspec

from salver.controller.policy_messages import (
    LENGTH,
    Answer,
    Ask,
    Policies,
    decode_answer,
    encode,
)
from salver.errors import ServeException

LOAD_WITHIN_S = 120.0
"""How long users' modules may take to import."""

ANSWER_WITHIN_S = 10.0
"""How long a policy may think."""

_MODULE = "salver.serve.policies.policy_host"


class PolicyProcessFailed(ServeException):
    """The process has ended or does not answer; it must be closed."""


class PolicyProcess:
    """Start it with ``start``, then ``ask``; ``close`` whatever happened."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self, policies: Policies) -> None:
        """Start the process and have it import what it needs.

        Raises:
            PolicyProcessFailed: it cannot be started, or ended or hung while it imported.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _MODULE, stdin=PIPE, stdout=PIPE, start_new_session=True
            )
        except OSError as error:
            raise PolicyProcessFailed(f"the policy's process cannot be started: {error}") from error
        await self._exchange(encode(policies), LOAD_WITHIN_S, "import")

    async def ask(self, ask: Ask) -> Answer:
        """Have the policies decide.

        Raises:
            PolicyProcessFailed: the process ended, or a policy did not return.
        """
        return decode_answer(await self._exchange(encode(ask), ANSWER_WITHIN_S, "return"))

    async def _exchange(self, message: bytes, within_s: float, doing: str) -> bytes:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                process.stdin.write(message)
                await process.stdin.drain()
                (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                return await process.stdout.readexactly(length)
        except TimeoutError:
            raise PolicyProcessFailed(f"the policy did not {doing} within {within_s:g} s") from None
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            raise PolicyProcessFailed("the policy's process ended") from None

    async def close(self) -> None:
        """End the process and what it has started. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):  # the group outlives its leader if users' code has started more
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
