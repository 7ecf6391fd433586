"""Asks every running replica whose class has a ``check_health`` how it is, once a period.

The first question comes a random part of a period after the constructor, so that replicas that started together are
not asked together. A question that is not answered in time has failed. One that could not be asked, or whose
connection broke, says nothing: the engine tells when a process ends.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from salver.control.events import Event, HealthChecked
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.records import DeploymentSpec
from salver.wire.messages import CheckHealth


class HealthChecks:
    """The replicas that are asked.

    Args:
        client: the conversation with a replica, None when there is none now.
        tell: receives every outcome.
    """

    def __init__(self, client: Callable[[str], ReplicaClient | None], tell: Callable[[Event], None]) -> None:
        self._client = client
        self._tell = tell
        self._watched: dict[str, tuple[float, float, asyncio.Task[None]]] = {}

    def watch(self, replica_id: str, deployment: DeploymentSpec) -> None:
        """Ask it from now on, as often as the deployment says; asked again, follow what it says now."""
        period_s, timeout_s = deployment.health_check_period_s, deployment.health_check_timeout_s
        watched = self._watched.get(replica_id)
        if watched is not None and watched[:2] == (period_s, timeout_s):
            return
        self.forget(replica_id)
        task = asyncio.get_running_loop().create_task(self._ask_again_and_again(replica_id, period_s, timeout_s))
        self._watched[replica_id] = (period_s, timeout_s, task)

    def forget(self, replica_id: str) -> None:
        """Ask it no more; unknown ids are fine."""
        watched = self._watched.pop(replica_id, None)
        if watched is not None:
            watched[2].cancel()

    def stop(self) -> None:
        """Ask nobody any more."""
        for replica_id in list(self._watched):
            self.forget(replica_id)

    async def _ask_again_and_again(self, replica_id: str, period_s: float, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + period_s * random.random()  # noqa: S311 - to spread, not to hide
        while True:
            await asyncio.sleep(due - loop.time())
            error = await self._ask(replica_id, timeout_s)
            if error is not None:
                self._tell(HealthChecked(replica_id, error))
            due = max(due + period_s, loop.time())

    async def _ask(self, replica_id: str, timeout_s: float) -> str | None:
        """What is wrong, empty for nothing; None when nobody was there to say."""
        client = self._client(replica_id)
        if client is None:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                await client.ask(CheckHealth())
        except TimeoutError:
            return f"check_health did not answer within {timeout_s:g} s"
        except ReplicaRefused as refusal:
            return str(refusal)
        except ReplicaGone:
            return None
        return ""
