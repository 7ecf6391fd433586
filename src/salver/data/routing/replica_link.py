"""The connection of one caller to one replica, and the requests in flight on it."""

from __future__ import annotations

import asyncio
import random
from binascii import crc32
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from salver.data.channel import Channel, Connect
from salver.data.routing.pace import Pace
from salver.data.shared_memory import release_of
from salver.wire.frames import AHEAD, END, MOST_LOAD, SHARED, Frame, Kind
from salver.wire.messages import ErrorKind, Hello, decode_error, decode_models
from salver.wire.snapshot import ReplicaRoute

_REDIAL_FIRST_S = 0.05
_REDIAL_MOST_S = 1.0
_RESPONSE = int(Kind.RESPONSE)  # most frames are one of these; on Python 3.11 naming an enum's member costs 60 ns
_DATA = int(Kind.DATA)
_ERROR = int(Kind.ERROR)
_MOST_MODELS_EXPECTED = 1024  # clients choose the ids: what is remembered of them must have a bound


class Exchange(Protocol):
    """One request, as its caller sees it. The router calls exactly one of the ending methods."""

    model_id: str
    """The multiplexed model that it needs, empty for none: replicas that hold it are preferred."""

    session_id: str
    """What its caller keeps together, empty for nothing: one replica is preferred for all of a session."""

    @property
    def abandoned(self) -> bool:
        """The caller gave up while this waited in the queue: it is dropped."""
        ...

    @property
    def attempts(self) -> int:
        """How many times it has been sent to a replica that did not answer BUSY; the router counts."""
        ...

    @attempts.setter
    def attempts(self, count: int) -> None: ...

    @property
    def retryable(self) -> bool:
        """Nothing of an answer has been passed on, and the whole request is still here to be sent again."""
        ...

    @property
    def may_go_ahead(self) -> bool:
        """Its opening frames are small, so it may wait for a slot at the replica (``pace``)."""
        ...

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        """Send the opening frames; with ``link.pace.flag`` if it may go ahead."""
        ...

    def frame_received(self, frame: Frame) -> None:
        """An answer frame came; the last one of the stream is the ending."""
        ...

    def replica_lost(self, replica_id: str) -> None:
        """Ending: the replica died after this was sent to it."""
        ...

    def refused(self, error: Exception) -> None:
        """Ending: it was never started, because the queue is full or the deployment is unavailable."""
        ...


class LinkOwner(Protocol):
    """What a link tells its router."""

    def link_connected(self, link: ReplicaLink) -> None:
        """It can be used from now on."""
        ...

    def link_leaving(self, link: ReplicaLink) -> None:
        """The replica drains: give it nothing more."""
        ...

    def link_lost(self, link: ReplicaLink, lost: Sequence[Exchange], not_started: Sequence[Exchange]) -> None:
        """The connection broke: ``lost`` may have run, ``not_started`` have not."""
        ...

    def not_started(self, link: ReplicaLink, exchange: Exchange) -> None:
        """The replica answered BUSY: the request can go anywhere."""
        ...

    def slot_reserved(self, link: ReplicaLink) -> None:
        """READY came: use the slot, or pass it on."""
        ...

    def link_failed(self, link: ReplicaLink) -> None:
        """The user's code failed a request there."""
        ...

    def link_recovered(self, link: ReplicaLink) -> None:
        """It answered one well after failures."""
        ...

    def pump(self) -> None:
        """A request has ended here: there may be a free slot."""
        ...


class ReplicaLink:
    """One replica, as its caller's router sees it. ``dial`` before use."""

    __slots__ = (
        "_dialling",
        "_heard",
        "_next_stream",
        "_router",
        "channel",
        "connected",
        "failures",
        "leaving",
        "models",
        "on_trial",
        "pace",
        "pinned",
        "route",
        "seed",
        "slot",
        "slots",
        "streams",
        "told_to_leave",
        "unsent",
        "waiting",
    )

    def __init__(self, router: LinkOwner, route: ReplicaRoute) -> None:
        self._router = router
        self.route = route
        self.slot = route.slot
        self.seed = crc32(route.replica_id.encode())
        """The replica's part in a rendezvous hash."""
        self.channel: Channel | None = None
        self.connected = False
        """The replica has said how many slots it has. A connection alone is no sign of life: the kernel makes it for
        a process that is just being killed, and requests would be lost with it."""
        self.streams: dict[int, Exchange] = {}
        """In the order in which they were sent."""
        self.unsent: set[int] = set()
        """Streams that are held for a request that is yet to come."""
        self.pace = Pace()
        self.slots = 0
        """The most requests that the replica can have run at a time since it was dialled, as it says itself."""
        self.failures = 0
        """Requests in a row that the user's code has failed, as ``outliers`` counts them."""
        self.on_trial = False
        """It was left out for its failures: it gets one request at a time until it answers one well."""
        self.waiting = False
        """WAIT or BUSY was exchanged: nothing is sent until READY."""
        self.leaving = False
        self.told_to_leave = False
        """The replica said GOAWAY. One that dies just leaves the snapshot, at times before its connection breaks."""
        self.models: set[str] = set()
        """Multiplexed models that the replica says it holds, and those that it was sent requests for since."""
        self.pinned: deque[Exchange] = deque()
        """What waits for a slot of this replica and no other; while there is any, this caller is in its line."""
        self._next_stream = 1
        self._dialling: asyncio.Task[None] | None = None
        self._heard = True
        """Something came over the last connection: whoever hangs up without a word is dialled again later."""

    def dial(self, connect: Connect, hello: Hello) -> None:
        self._dialling = asyncio.get_running_loop().create_task(self._dial(connect, hello))

    async def _dial(self, connect: Connect, hello: Hello) -> None:
        delay = _REDIAL_FIRST_S
        if not self._heard:
            await asyncio.sleep(_jittered(_REDIAL_MOST_S))
        while not self.leaving:
            try:
                self.channel = await connect(self.route.address, lambda: Channel(self, hello=hello))
            except OSError:
                await asyncio.sleep(_jittered(delay))
                delay = min(delay * 2, _REDIAL_MOST_S)
            else:
                break
        self._dialling = None
        self._heard = False
        if self.leaving:
            self.leave()

    def start(self, exchange: Exchange) -> None:
        stream = self._next_stream
        self._next_stream = stream + 1 if stream < 0xFFFFFFFF else 1
        self.streams[stream] = exchange
        exchange.attempts += 1
        if exchange.model_id and len(self.models) < _MOST_MODELS_EXPECTED:
            self.models.add(exchange.model_id)
        exchange.dispatch(self, stream)

    def replace(self, stream: int, exchange: Exchange) -> None:
        """Send ``exchange`` in the place of the one that holds this stream, of which nothing was sent."""
        del self.streams[stream]
        self.unsent.discard(stream)
        self.streams[stream] = exchange
        exchange.attempts += 1
        exchange.dispatch(self, stream)

    def release(self, stream: int) -> None:
        """End a stream on which nothing was sent."""
        self.unsent.discard(stream)
        if self.streams.pop(stream, None) is not None:
            self._stream_ended()

    @property
    def tries_one(self) -> bool:
        """It is on trial, and has its request."""
        return self.on_trial and bool(self.streams)

    def ahead(self) -> list[int]:
        """The streams that cannot have started, in their order.

        A replica starts one caller's requests in the order in which they came, and none before it has written the
        answers that made room for it. So whatever it has done, all but the first ``slots`` of what was sent and is
        not answered has not been started.
        """
        if not 0 < self.slots < min(len(self.streams), MOST_LOAD):
            return []
        return [stream for stream in self.streams if stream not in self.unsent][self.slots :]

    def take_back(self) -> None:
        """Ask for what waits at the replica; each that does is answered BUSY."""
        if self.channel is not None:
            for stream in self.ahead():
                self.channel.send(Kind.CANCEL, stream, flags=AHEAD)

    def ask_for_slot(self) -> None:
        """Get in the replica's line, once; READY is the answer."""
        if not self.waiting and self.connected and self.channel is not None:
            self.waiting = True
            self.channel.send(Kind.WAIT)

    def cancel(self, stream: int) -> None:
        """The caller no longer wants the answer."""
        if self.streams.pop(stream, None) is not None and self.channel is not None:
            self.channel.send(Kind.CANCEL, stream)
            self._stream_ended()

    def leave(self) -> None:
        """Send nothing more; close when the last answer has come."""
        self.leaving = True
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        if not self.streams and self.channel is not None:
            self.channel.close()

    def close(self) -> None:
        """Hang up at once; nobody will know what became of the requests in flight."""
        self.leave()
        if self.channel is not None:
            self.channel.abort()
        lost, self.streams = self.streams, {}
        for exchange in lost.values():
            exchange.replica_lost(self.route.replica_id)

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        kind = frame.kind
        self._heard = True
        if kind == _RESPONSE or (frame.flags & END if kind == _DATA else kind == _ERROR):
            exchange = self.streams.pop(frame.stream, None)
            failures = self.failures
            if exchange is not None:
                exchange.frame_received(frame)
            if frame.flags & SHARED:
                channel.send(Kind.RELEASE, 0, release_of(frame.payload))
            if kind == _ERROR:
                if exchange is not None and decode_error(frame.meta).kind == ErrorKind.USER:
                    self.failed(exchange)
            elif failures and self.failures == failures:
                self._router.link_recovered(self)
            self.pace.ended()
            if exchange is not None:
                self._stream_ended()
        elif kind == _DATA or kind == Kind.HEAD or kind == Kind.CREDIT:
            exchange = self.streams.get(frame.stream)
            if exchange is not None:
                exchange.frame_received(frame)
            if frame.flags & SHARED:
                channel.send(Kind.RELEASE, 0, release_of(frame.payload))
        elif kind == Kind.BUSY:
            self._busy(frame)
        elif kind == Kind.READY:
            self.waiting = False
            self._router.slot_reserved(self)
        elif kind == Kind.GOAWAY:
            self.told_to_leave = True
            self._router.link_leaving(self)
        elif kind == Kind.SLOTS:
            self.slots = max(self.slots, frame.load)
            self.pace.slots(frame.load)
            if not self.connected and not self.leaving:
                self.connected = True
                self.channel = channel  # it may speak before our dialling task has had its turn
                self._router.link_connected(self)
        elif kind == Kind.MODELS:
            self.models = set(decode_models(frame.meta))

    def failed(self, exchange: Exchange) -> None:
        """The user's code has failed a request; of an HTTP response the exchange itself says so.

        Requests of a model or a session come here because of it, and their failures may well be its own.
        """
        if not exchange.model_id and not exchange.session_id:
            self._router.link_failed(self)

    def _busy(self, frame: Frame) -> None:
        self.waiting = True
        exchange = self.streams.pop(frame.stream, None)
        if exchange is not None:
            exchange.attempts -= 1
            self._router.not_started(self, exchange)
        if self.leaving and not self.streams and self.channel is not None:
            self.channel.close()

    def _stream_ended(self) -> None:
        if self.leaving:
            if not self.streams and self.channel is not None:
                self.channel.close()
        else:
            self._router.pump()

    def channel_lost(self, channel: Channel) -> None:
        if channel is not self.channel and self.channel is not None:
            return
        self.channel = None
        self.connected = False
        self.waiting = False
        self.models = set()
        not_started = {stream for stream in self.ahead() if self.streams[stream].may_go_ahead}
        lost, self.streams = self.streams, {}
        self.unsent.clear()
        self.slots = 0
        self.pace.slowed()
        for stream in not_started:
            lost[stream].attempts -= 1
        self._router.link_lost(
            self,
            [exchange for stream, exchange in lost.items() if stream not in not_started],
            [exchange for stream, exchange in lost.items() if stream in not_started],
        )


def _jittered(delay: float) -> float:
    return delay * (0.5 + random.random() / 2)  # noqa: S311 - not a secret
