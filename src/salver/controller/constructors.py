"""Constructing users' objects in replicas, and saying where a constructor is when it does not return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import salver
from salver.control.events import Event, InitializeFailed, InitializeReplica, ReplicaInitialized
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.engine.interface import Engine
from salver.records import DeploymentId
from salver.wire.messages import Constructed, Initialize, decode_constructed

logger = logging.getLogger("salver.controller")

_REMIND_EVERY_S = 30.0
_EXIT_TOLD_WITHIN_S = 1.0
_OUR_FOLDER = str(Path(salver.__file__).parent)


class Constructors:
    """The constructors that run now.

    Args:
        engine: tells where a process is.
        client: the conversation with a replica, by its id and address.
        tell: receives the outcomes.
        constructed: told, before that, what only a constructed object can say.
    """

    def __init__(
        self,
        engine: Engine,
        client: Callable[[str, str], ReplicaClient],
        tell: Callable[[Event], None],
        constructed: Callable[[str, Constructed], None],
    ) -> None:
        self._engine = engine
        self._client = client
        self._tell = tell
        self._constructed = constructed
        self._running: dict[str, InitializeReplica] = {}
        self._shown: tuple[DeploymentId, str] | None = None

    async def construct(self, command: InitializeReplica) -> None:
        """Have the replica construct; its outcome is told as an event."""
        self._running[command.replica_id] = command
        reminders = asyncio.create_task(self._remind(command))
        try:
            client = self._client(command.replica_id, command.address)
            initialize = Initialize(command.replica_id, command.application, command.deployment, command.rank)
            answer = decode_constructed(await client.ask(initialize))
        except ReplicaRefused as error:
            self._running.pop(command.replica_id, None)
            self._show(command.deployment.id, f"the {error.kind}", "failed", str(error))
            self._tell(InitializeFailed(command.replica_id, str(error), error.kind))
        except ReplicaGone as error:
            self._running.pop(command.replica_id, None)
            await asyncio.sleep(_EXIT_TOLD_WITHIN_S)  # mostly the process has died: let the engine say first how
            self._tell(InitializeFailed(command.replica_id, str(error)))
        else:
            self._constructed(command.replica_id, answer)
            self._tell(ReplicaInitialized(command.replica_id, answer.docs_path, answer.rank))
        finally:
            reminders.cancel()
            self._running.pop(command.replica_id, None)

    async def before_kill(self, replica_id: str) -> None:
        """Ask a constructor that has not returned where it is: afterwards nobody can tell."""
        command = self._running.pop(replica_id, None)
        if command is not None:
            where = innermost(await self._engine.where(replica_id))
            self._show(command.deployment.id, "the constructor", "was stopped before it returned", where)

    def _show(self, deployment: DeploymentId, who: str, what: str, details: str) -> None:
        """The details only once: mostly the next replica fails in the same way."""
        again = self._shown == (deployment, details)
        self._shown = (deployment, details)
        logger.error("%s of %s %s%s", who, deployment.name, what, ", as before" if again else f"\n{details}")

    async def _remind(self, command: InitializeReplica) -> None:
        """Say every 30 s that it still runs, and where."""
        seconds = 0.0
        while True:
            await asyncio.sleep(_REMIND_EVERY_S)
            seconds += _REMIND_EVERY_S
            where = innermost(await self._engine.where(command.replica_id))
            name = command.deployment.id.name
            logger.warning("the constructor of %s has run for %.0f s, it is at\n%s", name, seconds, where)


def innermost(stack: str) -> str:
    """The part of a dumped stack above our own frames: the user's code, innermost first."""
    return "\n".join(takewhile(lambda line: _OUR_FOLDER not in line, stack.splitlines()))
