"""Choosing a replica first and calling it later: ``handle.choose_replica`` and ``handle.dispatch``."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from salver.data.context import request_context
from salver.data.current import CallSite, call_site
from salver.data.routing.replica_link import Exchange
from salver.data.routing.reservation import Reservation
from salver.errors import RequestTimeoutError
from salver.serve.handles.options import HandleOptions


@dataclass(frozen=True)
class ReplicaSelection:
    """A replica that was chosen, with a place for one call.

    Attributes:
        replica_id: unique within the deployment: ``unique_id`` of its ``ReplicaContext``.
        node_ip: of its machine, which is this one.
        port: None: replicas listen on sockets that only handles can dial.
        node_id, availability_zone: empty and None: there is one machine.
        replica_metadata: empty: replicas publish nothing about themselves.
    """

    replica_id: str
    _key: str = field(repr=False)
    _reservation: Reservation = field(repr=False)
    node_ip: str = "127.0.0.1"
    port: int | None = None
    node_id: str = ""
    availability_zone: str | None = None
    replica_metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def address(self) -> str:
        """``node_ip``, and the port where there is one."""
        return self.node_ip if self.port is None else f"{self.node_ip}:{self.port}"

    def send_for(self, key: str) -> _SendHere:
        """How a call of the deployment ``key`` gets there. Raises ValueError when it is another deployment's."""
        if key != self._key:
            raise ValueError(
                f"{self._key}#{self.replica_id} is no replica of {key}: dispatch through the handle that chose it"
            )
        return _SendHere(self._reservation)


class _SendHere:
    def __init__(self, reservation: Reservation) -> None:
        self._reservation = reservation

    def __call__(self, exchange: Exchange) -> None:
        try:
            self._reservation.use(exchange)
        except RuntimeError:
            exchange.refused(
                RuntimeError("A selection is good for one call, within the `async with` of its `choose_replica`.")
            )


@asynccontextmanager
async def choose_replica(key: str, options: HandleOptions) -> AsyncGenerator[ReplicaSelection]:
    """Reserve a place at the replica that a call would get; it is given back at the end unless it was used."""
    site = call_site()
    reservation = await _reserved(site, key, options)
    try:
        yield ReplicaSelection(reservation.ready.result().rpartition("#")[2], key, reservation)
    finally:
        site.run(reservation.release)


async def _reserved(site: CallSite, key: str, options: HandleOptions) -> Reservation:
    """``_reserve`` from any loop."""
    if site.is_here:
        return await _reserve(site, key, options)
    reserving = asyncio.run_coroutine_threadsafe(_reserve(site, key, options), site.loop)
    try:
        return await asyncio.wrap_future(reserving)
    except asyncio.CancelledError:
        reserving.add_done_callback(lambda late: _release_late(site, late))
        raise


def _release_late(site: CallSite, reserving: concurrent.futures.Future[Reservation]) -> None:
    """The place came when its asker had just been cancelled."""
    if not reserving.cancelled() and reserving.exception() is None:
        site.run(reserving.result().release)


async def _reserve(site: CallSite, key: str, options: HandleOptions) -> Reservation:
    deadline = request_context.get().deadline
    site.caller.start()
    reservation = Reservation(options.multiplexed_model_id, options.session_id)
    try:
        async with asyncio.timeout_at(deadline):
            router = await site.caller.find_router(key)
            router.reserve(reservation)
            await reservation.ready
    except TimeoutError:
        reservation.release()
        raise RequestTimeoutError(request_context.get().request_id) from None
    except BaseException:
        reservation.release()
        raise
    return reservation
