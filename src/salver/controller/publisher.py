"""Pushes the routing table to everyone who subscribed, and takes what callers say in return: metrics and demand."""

from __future__ import annotations

import msgspec

from salver.controller.demand import LoadWatch
from salver.controller.metrics_store import MetricsStore
from salver.data.channel import Channel
from salver.wire.frames import MOST_LOAD, Frame, Kind
from salver.wire.messages import decode_demand
from salver.wire.snapshot import Snapshot, encode_snapshot


class Publisher:
    """The routing socket's side of the controller.

    Subscribers get the current snapshot when they come, every new one, and one more, marked with their stream number,
    when they say WAIT: by then they have everything that was published before they asked.

    Args:
        key: the instance's session key.
        metrics: where pushed metrics go; None to ignore them.
        load: who wants to know what waits in callers; None for nobody.
    """

    def __init__(self, key: bytes, metrics: MetricsStore | None = None, load: LoadWatch | None = None) -> None:
        self._key = key
        self._metrics = metrics
        self._load = load
        self._channels: set[Channel] = set()
        self._last: Snapshot | None = None
        self._encoded: bytes | None = None
        self._awaited: tuple[str, ...] = ()

    @property
    def subscribers(self) -> int:
        """How many get the routing table."""
        return len(self._channels)

    def accept(self) -> Channel:
        return Channel(self, expect_key=self._key, on_hello=self._subscribe)

    def _subscribe(self, channel: Channel) -> None:
        self._channels.add(channel)
        self._send(channel)

    def publish(self, snapshot: Snapshot) -> None:
        self._last = snapshot
        self._encoded = encode_snapshot(msgspec.structs.replace(snapshot, awaited=self._awaited))
        for channel in self._channels:
            self._send(channel)

    def _send(self, channel: Channel, stream: int = 0) -> None:
        """With how many there are: so many will come back together when this controller has died."""
        if self._encoded is not None:
            channel.send(Kind.SNAPSHOT, stream, payload=self._encoded, load=min(len(self._channels), MOST_LOAD))

    def await_applications(self, prefixes: tuple[str, ...]) -> None:
        """Have requests below these prefixes wait; nothing that the core decides depends on that."""
        self._awaited = prefixes
        if self._last is not None:
            self.publish(self._last)

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == Kind.WAIT:
            self._send(channel, frame.stream)
        elif frame.kind == Kind.METRICS and self._metrics is not None:
            self._metrics.received(channel, bytes(frame.meta).decode(), bytes(frame.payload))
        elif frame.kind == Kind.DEMAND and self._load is not None:
            self._load.demand_received(channel, decode_demand(frame.meta))

    def channel_lost(self, channel: Channel) -> None:
        self._channels.discard(channel)
        if self._metrics is not None:
            self._metrics.lost(channel)
        if self._load is not None:
            self._load.connection_lost(channel)

    def close(self) -> None:
        for channel in list(self._channels):
            channel.close()
