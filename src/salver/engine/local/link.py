"""What the controller and the supervisor say to each other, over a socket pair that only they have.

Messages are msgpack behind a u32 length. The supervisor's side blocks for no one: its loop reads what is there.
"""

from __future__ import annotations

import struct
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from salver.engine.interface import Exited, NotStarted, ReplicaProcess, Restarted, Started
from salver.errors import ProtocolError

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 16 * 1024 * 1024


class StartProcess(Struct, frozen=True, tag=True):
    process: ReplicaProcess


class KillProcess(Struct, frozen=True, tag=True):
    replica_id: str


class ListProcesses(Struct, frozen=True, tag=True):
    pass


class DumpStack(Struct, frozen=True, tag=True):
    """Make the process write a stack (faulthandler) to the instance's folder.

    Of its main thread, or of one that ``runs`` while the main thread does not.
    """

    replica_id: str
    runs: bool = False


class ProcessList(Struct, frozen=True, tag=True):
    processes: tuple[ReplicaProcess, ...]
    proxy_pids: tuple[int, ...] = ()


ToSupervisor = StartProcess | KillProcess | ListProcesses | DumpStack
ToController = Started | NotStarted | Exited | Restarted | ProcessList

_encoder = msgspec.msgpack.Encoder()


def encode_message(message: ToSupervisor | ToController) -> bytes:
    data = _encoder.encode(message)
    return _LENGTH.pack(len(data)) + data


MessageT = TypeVar("MessageT")


class MessageReader(Generic[MessageT]):
    """Collects bytes and gives the messages in them; raises ProtocolError on anything else."""

    def __init__(self, message_type: object) -> None:
        self._decoder = cast("msgspec.msgpack.Decoder[MessageT]", msgspec.msgpack.Decoder(cast(Any, message_type)))
        self._data = bytearray()

    def feed(self, data: bytes) -> list[MessageT]:
        self._data += data
        messages: list[MessageT] = []
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if length > _MOST_BYTES:
                raise ProtocolError(f"a message of {length} bytes between supervisor and controller")
            end = _LENGTH.size + length
            if len(self._data) < end:
                break
            try:
                messages.append(self._decoder.decode(memoryview(self._data)[_LENGTH.size : end].tobytes()))
            except msgspec.DecodeError as error:
                raise ProtocolError(f"a message between supervisor and controller: {error}") from error
            del self._data[:end]
        return messages
