"""The routing table on the wire."""

from __future__ import annotations

import msgspec
import pytest

from salver.wire.snapshot import (
    ApplicationRoute,
    DeploymentRoute,
    ReplicaRoute,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
)

SNAPSHOT = Snapshot(
    epoch=3,
    version=7,
    applications=(ApplicationRoute("app", "/", "d"), ApplicationRoute("hidden", None, "e")),
    deployments=(
        DeploymentRoute("app#d", (ReplicaRoute("app#d#1", "unix:/run/1", 4),), 5, -1),
        DeploymentRoute("hidden#e", (), 1, 10, "it failed to deploy: ValueError"),
    ),
    awaited=("/later",),
)


def test_round_trip() -> None:
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT
    assert decode_snapshot(encode_snapshot(Snapshot(1, 0))) == Snapshot(1, 0)


def test_every_cut_is_an_error() -> None:
    data = encode_snapshot(SNAPSHOT)
    for size in range(len(data)):
        with pytest.raises(msgspec.DecodeError):
            decode_snapshot(data[:size])


def test_a_snapshot_with_more_than_we_know_is_read() -> None:
    newer = msgspec.msgpack.encode([1, 2, [], [], ["/"], "something of a later version"])
    assert decode_snapshot(newer) == Snapshot(1, 2, awaited=("/",))


@pytest.mark.parametrize("data", [b"", b"\xff", msgspec.msgpack.encode({}), msgspec.msgpack.encode(["1", 2])])
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_snapshot(data)
