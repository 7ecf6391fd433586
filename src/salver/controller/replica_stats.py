"""Collects what replicas' ``record_autoscaling_stats`` return, for the policies of users that want to know."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from salver.controller.policy_messages import Reading
from salver.controller.replica_client import ReplicaClient, ReplicaGone, ReplicaRefused
from salver.wire.messages import RecordStats

logger = logging.getLogger("salver.controller")

RECORD_EVERY_S = 1.0
ANSWER_WITHIN_S = 10.0

_decode_values = msgspec.msgpack.Decoder(dict[str, float]).decode


class ReplicaStats:
    """The replicas that are asked, each on its own, so that a slow one delays nobody.

    Args:
        client: the conversation with a replica, None when there is none now.
    """

    def __init__(self, client: Callable[[str], ReplicaClient | None]) -> None:
        self._client = client
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._readings: dict[str, Reading] = {}

    def watch(self, replica_ids: set[str]) -> None:
        """Ask these from now on, and no others."""
        for replica_id in self._tasks.keys() - replica_ids:
            self._tasks.pop(replica_id).cancel()
            self._readings.pop(replica_id, None)
        for replica_id in replica_ids - self._tasks.keys():
            self._tasks[replica_id] = asyncio.get_running_loop().create_task(self._ask_again_and_again(replica_id))

    def stop(self) -> None:
        """Ask nobody any more."""
        self.watch(set())

    def take(self) -> tuple[Reading, ...]:
        """What has come since the last time: the latest of each replica."""
        readings = tuple(self._readings.values())
        self._readings.clear()
        return readings

    async def _ask_again_and_again(self, replica_id: str) -> None:
        complained = False
        while True:
            problem = await self._ask(replica_id)
            if problem and not complained:
                logger.warning("replica %s: record_autoscaling_stats failed: %s", replica_id, problem)
            complained = bool(problem)
            await asyncio.sleep(RECORD_EVERY_S)

    async def _ask(self, replica_id: str) -> str:
        """What went wrong; empty for nothing, and when the replica was not there."""
        client = self._client(replica_id)
        if client is None:
            return ""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                values = _decode_values(await client.ask(RecordStats()))
        except TimeoutError:
            return f"no answer within {ANSWER_WITHIN_S:g} s"
        except (ReplicaRefused, msgspec.DecodeError) as error:
            return str(error)
        except ReplicaGone:
            return ""
        self._readings[replica_id] = Reading(replica_id, time.monotonic(), values)
        return ""
