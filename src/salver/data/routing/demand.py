"""Tells the controller which deployments this caller's requests wait for: what autoscaling must know beside the load.

A request that finds a free slot costs nothing here: routers say only when one has to wait (``changed``). A moment
later, when what was a matter of milliseconds is over, the whole state is sent, and again when it has changed, ten
times a second at most, until nothing waits. A controller that was away gets the whole state with the new connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from salver.data.channel import Channel
from salver.data.routing.router import Router
from salver.wire.frames import Kind
from salver.wire.messages import Demand, encode

_FIRST_AFTER_S = 0.005
_EVERY_S = 0.1


class DemandPush:
    """The demand of one caller. All methods are for the caller's loop.

    Args:
        routers: the caller's, by deployment; read whenever there may be something to say.
    """

    def __init__(self, routers: Mapping[str, Router]) -> None:
        self._routers = routers
        self._channel: Channel | None = None
        self._told: Demand = {}
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """A request has to wait."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + _FIRST_AFTER_S, self._not_before), self._tell)

    def connected(self, channel: Channel) -> None:
        """There is a controller, who knows nothing yet."""
        self._channel = channel
        self._told = {}
        self._not_before = 0.0
        self.changed()

    def disconnected(self) -> None:
        """The controller is away; it forgets what this caller has said."""
        self._channel = None

    def stop(self) -> None:
        """Say nothing more."""
        self._channel = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        self._timer = None
        demand = {key: waiting for key, router in self._routers.items() if (waiting := router.waiting)}
        if self._channel is not None and demand != self._told:
            self._channel.send(Kind.DEMAND, 0, encode(demand))
            self._told = demand
            self._not_before = asyncio.get_running_loop().time() + _EVERY_S
        if demand:
            self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._tell)
