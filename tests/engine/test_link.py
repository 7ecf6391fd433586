"""What controller and supervisor say to each other, however the socket cuts it."""

from __future__ import annotations

import pytest

from salver.engine.interface import Exited, NotStarted, ReplicaProcess, Restarted, Started
from salver.engine.local.link import (
    DumpStack,
    KillProcess,
    ListProcesses,
    MessageReader,
    ProcessList,
    StartProcess,
    ToController,
    ToSupervisor,
    encode_message,
)
from salver.errors import ProtocolError
from salver.records import DeploymentId

PROCESS = ReplicaProcess("app#d#1", DeploymentId("app", "d"), "v1", 3, 42, "unix:/run/1")
TO_SUPERVISOR: list[ToSupervisor] = [
    StartProcess(PROCESS),
    ListProcesses(),
    KillProcess("app#d#1"),
    DumpStack("app#d#1"),
]
TO_CONTROLLER: list[ToController] = [
    Started(PROCESS),
    NotStarted("app#d#2", "could not fork"),
    Exited("app#d#1", "killed by SIGKILL", exit_code=-9),
    Restarted("proxy", "was killed by SIGKILL", 2),
    ProcessList((PROCESS,), (1, 2)),
    ProcessList(()),
]


@pytest.mark.parametrize(("messages", "message_type"), [(TO_SUPERVISOR, ToSupervisor), (TO_CONTROLLER, ToController)])
def test_every_split_gives_the_same_messages(
    messages: list[ToSupervisor | ToController], message_type: object
) -> None:
    data = b"".join(encode_message(message) for message in messages)
    for cut in range(len(data) + 1):
        reader: MessageReader[object] = MessageReader(message_type)
        assert reader.feed(data[:cut]) + reader.feed(data[cut:]) == messages
    by_bytes: MessageReader[object] = MessageReader(message_type)
    received: list[object] = []
    for position in range(len(data)):
        received += by_bytes.feed(data[position : position + 1])
    assert received == messages


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x01\x00\x00\x00\xff",
        b"\x00\x00\x00\x00",
        encode_message(Exited("app#d#1", "a message of the other direction")),
    ],
    ids=["length", "rubbish", "empty", "direction"],
)
def test_anything_else_is_a_protocol_error(data: bytes) -> None:
    reader: MessageReader[ToSupervisor] = MessageReader(ToSupervisor)
    assert reader.feed(encode_message(ListProcesses())) == [ListProcesses()]
    with pytest.raises(ProtocolError, match="between supervisor and controller"):
        reader.feed(data)
