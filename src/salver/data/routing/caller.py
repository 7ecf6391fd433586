"""Everything one process needs to call deployments: the routing table, kept up to date, and a router for each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from salver.data.channel import Channel, Connect
from salver.data.load_board import LoadBoard
from salver.data.metrics_push import MetricsPush
from salver.data.routing.demand import DemandPush
from salver.data.routing.replica_link import Exchange
from salver.data.routing.router import Router
from salver.errors import DeploymentUnavailableError, StartupError
from salver.wire.frames import Frame, Kind
from salver.wire.messages import Hello
from salver.wire.snapshot import DeploymentRoute, Snapshot, decode_snapshot

_RECONNECT_FIRST_S = 0.02
_RECONNECT_MOST_S = 0.5
_SPREAD_EACH_S = 0.002
_SPREAD_MOST_S = 0.25
"""All callers lose their controller in the same moment: each waits for a part of this before it dials the next. A few
wait for next to nothing: until then they do not know of what is deployed or dies meanwhile."""

_ANSWER_WITHIN_S = 5.0


class Caller:
    """Subscribes to the controller and routes requests; keeps serving from the last snapshot when it is away.

    Args:
        connect: dials addresses.
        controller_address: where snapshots come from.
        hello: how this process introduces itself, to the controller and to replicas.
        board: the load board, None without one.

    All methods are for the loop on which ``start`` ran.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        controller_address: str,
        hello: Hello,
        board: LoadBoard | None,
    ) -> None:
        self._connect = connect
        self._controller_address = controller_address
        self._hello = hello
        self._board = board
        self._on_snapshot: Callable[[Snapshot], None] | None = None
        self._metrics: MetricsPush | None = None
        self._channel: Channel | None = None
        self._subscription: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._refreshes: dict[int, asyncio.Future[None]] = {}
        self._next_refresh = 1
        self._looked_up: dict[str, list[Exchange]] = {}
        """Requests that wait until it is known whether their deployment exists."""
        self._look_ups: set[asyncio.Task[None]] = set()
        self._first_of_connection = True
        self._subscribers = 1
        """How many callers there were, this one included, when the latest snapshot was sent."""
        self._routes: dict[str, DeploymentRoute] = {}
        self._routers: dict[str, Router] = {}
        self._demand = DemandPush(self._routers)
        self.snapshot: Snapshot | None = None

    def on_snapshot(self, tell: Callable[[Snapshot], None]) -> None:
        """Have ``tell`` called with the snapshot that is there, and with every new one after the routers."""
        self._on_snapshot = tell
        if self.snapshot is not None:
            tell(self.snapshot)

    def push_metrics(self, metrics: MetricsPush) -> None:
        """Have the controller told of this process's metrics, over the subscription. Call it before ``start``."""
        self._metrics = metrics

    def start(self) -> None:
        """Begin to subscribe; requests made before the first snapshot wait for it."""
        if self._subscription is None:
            self._subscription = asyncio.get_running_loop().create_task(self._subscribe())

    async def stop(self) -> None:
        """Close everything. May be called twice."""
        if self._subscription is not None:
            self._subscription.cancel()
            await asyncio.gather(self._subscription, return_exceptions=True)
            self._subscription = None
        self._routes.clear()
        for router in self._routers.values():
            router.close()
        self._routers.clear()
        for arrived in self._refreshes.values():
            if not arrived.done():
                arrived.set_result(None)
        self._demand.stop()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def router(self, key: str) -> Router | None:
        """The router of a deployment, None when the current snapshot has no such deployment."""
        router = self._routers.get(key)
        if router is None and key in self._routes:
            router = Router(
                key, connect=self._connect, hello=self._hello, board=self._board, on_wait=self._demand.changed
            )
            self._routers[key] = router
            router.update(self._routes[key])
        return router

    def prepare(self, key: str) -> None:
        """Subscribe and connect to the replicas of a deployment, before there is a request."""
        if self.router(key) is None and key not in self._looked_up:
            self._begin_look_up(key)

    def has_replicas(self, key: str) -> bool:
        """Whether a replica of the deployment is connected. May be asked from any thread."""
        router = self._routers.get(key)
        return router is not None and router.has_replicas

    def listed_replicas(self, key: str) -> list[str]:
        """The ids of a deployment's replicas in the current snapshot, connected or not."""
        route = self._routes.get(key)
        return [] if route is None else [replica.replica_id for replica in route.replicas]

    def submit(self, key: str, exchange: Exchange) -> None:
        """Route a request now; a deployment that is not known here is looked up first.

        Requests for one deployment start in the order in which they were made, also when they all wait for a look-up.
        """
        waiting = self._looked_up.get(key)
        if waiting is not None:
            waiting.append(exchange)
            return
        router = self.router(key)
        if router is not None:
            router.submit(exchange)
            return
        self._begin_look_up(key, exchange)

    def _begin_look_up(self, key: str, *exchanges: Exchange) -> None:
        self._looked_up[key] = list(exchanges)
        task = asyncio.get_running_loop().create_task(self._look_up(key))
        self._look_ups.add(task)
        task.add_done_callback(self._look_ups.discard)

    async def _look_up(self, key: str) -> None:
        self.start()
        try:
            router = await self.find_router(key)
        except DeploymentUnavailableError as error:
            for exchange in self._looked_up.pop(key):
                exchange.refused(error)
        else:
            for exchange in self._looked_up.pop(key):
                if not exchange.abandoned:
                    router.submit(exchange)

    async def find_router(self, key: str) -> Router:
        """Like ``router``, but asks the controller when it is unknown here: a snapshot may be under way.

        Raises:
            DeploymentUnavailableError: there is no such deployment, or nobody answers.
        """
        router = self.router(key)
        if router is None:
            await self.refresh()
            router = self.router(key)
        if router is None:
            raise DeploymentUnavailableError(key, "It does not exist, or was deleted.")
        return router

    async def refresh(self) -> None:
        """Return when a snapshot has come that is at least as new as this call; give up silently after 5 s.

        The controller answers WAIT with a snapshot of the same stream number, after all earlier ones.
        """
        number = self._next_refresh
        self._next_refresh += 1
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refreshes[number] = arrived
        if self._channel is not None:
            self._channel.send(Kind.WAIT, number)
        try:
            await asyncio.wait_for(arrived, _ANSWER_WITHIN_S)
        except TimeoutError:
            pass
        finally:
            self._refreshes.pop(number, None)

    async def _subscribe(self) -> None:
        delay = _RECONNECT_FIRST_S
        while True:
            self._lost.clear()
            self._first_of_connection = True
            try:
                self._channel = await self._connect(
                    self._controller_address, lambda: Channel(self, hello=self._hello)
                )
                if self._metrics is not None:
                    self._metrics.add(self._channel)
                self._demand.connected(self._channel)
                await self._lost.wait()
            except (OSError, StartupError):
                pass
            if self._first_of_connection:  # nobody there, or somebody who hung up without a word
                await asyncio.sleep(delay * (0.5 + random.random() / 2))  # noqa: S311 - jitter
                delay = min(delay * 2, _RECONNECT_MOST_S)
            else:
                delay = _RECONNECT_FIRST_S
                spread_s = min(_SPREAD_EACH_S * self._subscribers, _SPREAD_MOST_S)
                await asyncio.sleep(spread_s * random.random())  # noqa: S311 - jitter

    # --- Receiver ---------------------------------------------------------------------------------------

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        if frame.kind != Kind.SNAPSHOT:
            return
        self._subscribers = frame.load
        self._apply(decode_snapshot(bytes(frame.payload)))
        for number, arrived in list(self._refreshes.items()):
            if (self._first_of_connection or number == frame.stream) and not arrived.done():
                arrived.set_result(None)
        self._first_of_connection = False

    def channel_lost(self, channel: Channel) -> None:
        self._channel = None
        self._demand.disconnected()
        self._lost.set()

    def _apply(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._routes = {route.key: route for route in snapshot.deployments}
        for key, router in list(self._routers.items()):
            router.update(self._routes.get(key))
            if key not in self._routes:
                del self._routers[key]
        if self._on_snapshot is not None:
            self._on_snapshot(snapshot)
