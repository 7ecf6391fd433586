"""What the code of a request may know about itself: context variables, one value per request."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from msgspec import Struct


class RequestContext(Struct, frozen=True):
    """The request that the current code works for; child calls inherit it.

    Attributes:
        route: the application's route prefix.
        request_id: of the HTTP request or handle call at the root.
        app_name: the application that runs this code.
        is_http_request: whether this code was called by HTTP itself, not by a handle.
        deadline: when the request's time is up, on the clock of ``time.monotonic`` (which is also that of an event
            loop's ``time``); None for never. Child calls inherit what remains.
        multiplexed_model_id, session_id: of this call alone; child calls do not inherit them.
    """

    route: str = ""
    request_id: str = ""
    app_name: str = ""
    is_http_request: bool = False
    deadline: float | None = None
    multiplexed_model_id: str = ""
    session_id: str = ""


@dataclass(frozen=True)
class ReplicaRank:
    """The place of a replica among those of its deployment: of all, the node's among nodes, and on its node."""

    rank: int
    node_rank: int
    local_rank: int


class ReplicaIdentity(Struct, frozen=True):
    """The replica that the current code runs in.

    Attributes:
        code_version: content hash of the deployment's code, arguments and options.
        world_size: how many replicas the deployment should have.
        servable_object: the user's object, or function; None until it is constructed.
        rank: the replica's place among those of its deployment; None while it has none.
    """

    app_name: str
    deployment: str
    replica_id: str
    code_version: str = ""
    world_size: int = 1
    servable_object: Any = None
    rank: ReplicaRank | None = None


request_context: ContextVar[RequestContext] = ContextVar("salver_request_context", default=RequestContext())  # noqa: B039 - frozen
replica_identity: ContextVar[ReplicaIdentity | None] = ContextVar("salver_replica_identity", default=None)

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,128}")


_ids: list[str] = []
"""Request ids that nobody has used. Making one by itself, with a system call, would be a tenth of what the proxy
does; of 256 at a time, column by column, each costs a quarter of a microsecond."""

os.register_at_fork(after_in_child=_ids.clear)  # two processes with the same would give out the same ids

_AT_A_TIME = 256
_VERSION_4 = bytes(byte & 0x0F | 0x40 for byte in range(256))
_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))


def new_request_id() -> str:
    """A random UUID (version 4, RFC 9562)."""
    while True:
        try:
            return _ids.pop()
        except IndexError:
            _ids.extend(_new_ids())


def _new_ids() -> Iterator[str]:
    columns = (_column(4), _column(2), _column(2, _VERSION_4), _column(2, _VARIANT), _column(6))
    return map("-".join, zip(*columns, strict=True))


def _column(size: int, first: bytes | None = None) -> list[str]:
    """Random numbers of so many bytes, in hexadecimal; ``first`` translates the first byte of each."""
    data = bytearray(os.urandom(size * _AT_A_TIME))
    data[::size] = data[::size].translate(first)
    return data.hex("-", size).split("-")


def accept_request_id(offered: bytes) -> str:
    """The client's own id when it is 1 to 128 visible ASCII characters, else a new one."""
    return offered.decode("ascii") if offered and _VISIBLE.fullmatch(offered) else new_request_id()
