"""Telling running replicas their new settings: ``user_config``, rank, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from salver.control.events import Event, ReconfigureReplica, ReplicaReconfigured
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.wire.messages import Reconfigure

_EXIT_TOLD_WITHIN_S = 1.0


class Reconfiguring:
    """Carries out ReconfigureReplica.

    Args:
        client: the conversation with a replica, by its id and address.
        tell: receives the outcomes.
    """

    def __init__(self, client: Callable[[str, str], ReplicaClient], tell: Callable[[Event], None]) -> None:
        self._client = client
        self._tell = tell

    async def reconfigure(self, command: ReconfigureReplica) -> None:
        """Have the replica follow; its outcome is told as an event, at the latest after ``startup_timeout_s``."""
        timeout_s = command.deployment.startup_timeout_s
        error = ""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ask(command)
        except TimeoutError:
            error = f"reconfigure did not return within {timeout_s:g} s"
        except (ReplicaRefused, ReplicaGone) as refusal:
            error = str(refusal)
        self._tell(ReplicaReconfigured(command.replica_id, command.number, error))

    async def _ask(self, command: ReconfigureReplica) -> None:
        message = Reconfigure(command.deployment, command.rank)
        try:
            await self._client(command.replica_id, command.address).ask(message)
        except ReplicaGone:
            await asyncio.sleep(_EXIT_TOLD_WITHIN_S)  # mostly the process has died: let the engine say first how
            await self._client(command.replica_id, command.address).ask(message)
