"""What every process of an instance is told when the instance starts, and again when one is restarted."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions
from salver.engine.local.instance import Instance
from salver.records import Capacity

BACKLOG = 2048
"""Connections that may wait to be accepted. Who accepts must say it again: asyncio by itself tells the kernel 100."""


class InstanceSettings(Struct, frozen=True):
    """Decided by the launcher, which knows what the user said; the supervisor keeps it.

    Attributes:
        proxy: how the HTTP ingress behaves.
        capacity: what replicas can reserve.
        awaits_deploy: whoever starts it is about to deploy; until then requests wait.
    """

    proxy: ProxyOptions = DEFAULT_PROXY_OPTIONS
    capacity: Capacity = Capacity()
    awaits_deploy: bool = False


DEFAULT_SETTINGS = InstanceSettings()


@dataclass(frozen=True)
class Listening:
    """The sockets that listen for an instance. The supervisor keeps them, whoever accepts.

    Attributes:
        http: for clients.
        control, routing: for our own processes: the control API, and subscribers.
        admin: for the control API on TCP.
    """

    http: list[socket.socket]
    control: socket.socket
    routing: socket.socket
    admin: Sequence[socket.socket] = ()

    def all(self) -> list[socket.socket]:
        return [*self.http, self.control, self.routing, *self.admin]


@dataclass(frozen=True)
class ControllerStart:
    """What one controller process is given.

    Attributes:
        instance, key: whose controller it is, and its session key.
        epoch: which controller of the instance; grows.
        link: to the supervisor.
        pulse: on which the supervisor asks whether it still answers.
        listening: what it may accept from.
        settings: of the instance.
    """

    instance: Instance
    key: bytes
    epoch: int
    link: socket.socket
    pulse: socket.socket
    listening: Listening
    settings: InstanceSettings
