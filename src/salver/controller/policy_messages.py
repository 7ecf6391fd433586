"""What the controller and a process that runs users' autoscaling policies say to each other, over its two pipes.

Each message is its length, 4 bytes little-endian, and msgpack. The controller begins with ``Policies``, which an
empty message answers when their modules have been imported, or could not be. Then every ``Ask`` is answered by an
``Answer``. Times are seconds since 1970, unless they are said to be monotonic: what has an age must not get another
one when the wall clock is set. The monotonic clock is the same for all processes of a machine.
"""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct

from salver.records import AutoscalingSpec, DeploymentId, PolicySpec

LENGTH = struct.Struct("<I")


class Failure(Struct, frozen=True):
    """Why a policy gave no answer: in a line, and with the traceback where there is one."""

    message: str
    traceback: str = ""


class Policies(Struct, frozen=True):
    """The policies of one application: its own, or those of some of its deployments, by ``app#deployment``."""

    application: PolicySpec | None
    deployments: dict[str, PolicySpec] = {}


class Facts(Struct, frozen=True):
    """What is known of one deployment. Its ``settings`` are without policy."""

    id: DeploymentId
    settings: AutoscalingSpec
    target: int
    running: tuple[str, ...] = ()
    requests: float = 0.0
    queued: float = 0.0
    ongoing: float = 0.0
    low: int = 0
    high: int = 0
    scaled_up_at_s: float | None = None
    scaled_down_at_s: float | None = None


class Reading(Struct, frozen=True):
    """What a replica's ``record_autoscaling_stats`` returned; ``monotonic_s`` says when."""

    replica_id: str
    monotonic_s: float
    values: dict[str, float]


class Ask(Struct, frozen=True):
    """Decide. ``readings`` are those that have come since the last time; both clocks say when this is."""

    deployments: tuple[Facts, ...]
    readings: tuple[Reading, ...] = ()
    now_s: float = 0.0
    monotonic_s: float = 0.0


class Answer(Struct, frozen=True):
    """Numbers of replicas and failures, by ``app#deployment``; a policy may say nothing about some."""

    replicas: dict[str, int] = {}
    failures: dict[str, Failure] = {}


EMPTY = LENGTH.pack(0)


def encode(message: Policies | Ask | Answer) -> bytes:
    """The message with its length before it."""
    data = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(data)) + data


decode_policies = msgspec.msgpack.Decoder(Policies).decode
decode_ask = msgspec.msgpack.Decoder(Ask).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
