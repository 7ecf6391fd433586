"""What every process of an instance is told when the instance starts, and again when one is restarted."""

from __future__ import annotations

from msgspec import Struct

from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions
from salver.records import Capacity


class InstanceSettings(Struct, frozen=True):
    """Decided by the launcher, which knows what the user said; the supervisor keeps it.

    Attributes:
        proxy: how the HTTP ingress behaves.
        capacity: what replicas can reserve.
    """

    proxy: ProxyOptions = DEFAULT_PROXY_OPTIONS
    capacity: Capacity = Capacity()


DEFAULT_SETTINGS = InstanceSettings()
