"""Channels: who is let in, and that what is sent arrives whole, in order, and ends once."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from salver.data.channel import Channel, connect_unix
from salver.errors import StartupError
from salver.wire.frames import END, PIECES, Frame, FrameDecoder, Kind, encode_frame
from salver.wire.messages import PROTOCOL_VERSION, Hello, encode

from .scene import KEY, Peer, hello, run, turns


@asynccontextmanager
async def accepting(peer: Peer) -> AsyncGenerator[socket.socket]:
    """The raw other end of a channel that accepts."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_unix_connection(lambda: Channel(peer, expect_key=KEY), sock=ours)
    peer.channel = channel
    try:
        yield theirs
    finally:
        channel.abort()
        theirs.close()


@asynccontextmanager
async def connected(dialler: Peer, acceptor: Peer) -> AsyncGenerator[tuple[Channel, Channel]]:
    """Two channels, one that dialled and one that accepted."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, left = await loop.create_unix_connection(lambda: Channel(dialler, hello=hello("dialler")), sock=ours)
    _, right = await loop.create_unix_connection(lambda: Channel(acceptor, expect_key=KEY), sock=theirs)
    try:
        yield left, right
    finally:
        left.abort()
        right.abort()
        await dialler.lost.wait()
        await acceptor.lost.wait()
        assert (dialler.times_lost, acceptor.times_lost) == (1, 1)


HELLO = encode_frame(Kind.HELLO, meta=encode(hello("me")))


def test_the_hello_opens_the_channel() -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            theirs.send(HELLO + encode_frame(Kind.WAIT, 5))
            await peer.next(Kind.WAIT, 5)
            assert peer.channel is not None
            assert peer.channel.sender == "me"

    run(test())


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(Kind.CALL, 1, b"", b"payload"),
        encode_frame(Kind.HELLO, meta=encode(hello(key=b"x" * 32))),
        encode_frame(Kind.HELLO, meta=encode(hello(key=b""))),
        encode_frame(Kind.HELLO, meta=encode(hello(key=KEY[:-1]))),
        encode_frame(Kind.HELLO, meta=encode(Hello(PROTOCOL_VERSION + 1, KEY, "me"))),
        encode_frame(Kind.HELLO, meta=b"\xff"),
        encode_frame(Kind.HELLO),
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=["not a hello", "wrong key", "no key", "short key", "version", "rubbish", "empty", "another protocol"],
)
def test_a_wrong_first_frame_closes_and_nothing_is_delivered(first: bytes) -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            theirs.send(first + encode_frame(Kind.WAIT) + HELLO + encode_frame(Kind.WAIT))
            await peer.lost.wait()
            assert peer.frames.empty()
            assert peer.times_lost == 1
            assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""

    run(test())


def test_the_hello_may_come_in_pieces() -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            for position in range(len(HELLO)):
                theirs.send(HELLO[position : position + 1])
                await turns(3)
            theirs.send(encode_frame(Kind.WAIT))
            await peer.next(Kind.WAIT)

    run(test())


def test_a_protocol_error_later_closes_too() -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            theirs.send(HELLO + encode_frame(Kind.WAIT))
            await peer.next(Kind.WAIT)
            theirs.send(b"\xff" * 16)
            await peer.lost.wait()
            assert peer.frames.empty()

    run(test())


def test_frames_of_all_sizes_keep_their_order() -> None:
    sizes = [0, 10, 200_000, 1, 128 * 1024 - 1, 128 * 1024, 5, 3_000_000, 0, 70_000]

    async def test() -> None:
        dialler, acceptor = Peer(), Peer()
        async with connected(dialler, acceptor) as (left, right):
            for channel, receiver in ((left, acceptor), (right, dialler)):
                for stream, size in enumerate(sizes):
                    channel.send(Kind.DATA, stream, b"m%d" % stream, bytes([stream]) * size, stream, stream)
                for stream, size in enumerate(sizes):
                    frame = await receiver.next(Kind.DATA, stream)
                    assert bytes(frame.payload) == bytes([stream]) * size
                    assert (frame.meta, frame.flags, frame.load) == (b"m%d" % stream, stream, stream)

    run(test())


def test_frames_of_one_turn_leave_in_one_write() -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            assert peer.channel is not None
            for stream in range(50):
                peer.channel.send(Kind.CREDIT, stream)
            await turns()
            data = theirs.recv(65536)
            assert data == b"".join(encode_frame(Kind.CREDIT, stream) for stream in range(50))

    run(test())


def test_pieces_that_follow_one_another_share_a_frame() -> None:
    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            assert peer.channel is not None
            for stream, piece in ((1, b"a"), (1, b"bc"), (2, b"d"), (1, b"e"), (1, b"f")):
                peer.channel.send_piece(stream, piece)
            peer.channel.send(Kind.DATA, 1, b"", b"g", END)
            await turns()
            peer.channel.send_piece(1, b"h")
            await turns()
            assert theirs.recv(65536) == b"".join(
                (
                    encode_frame(Kind.DATA, 1, b"", b"abc", PIECES),
                    encode_frame(Kind.DATA, 2, b"", b"d", PIECES),
                    encode_frame(Kind.DATA, 1, b"", b"ef", PIECES),
                    encode_frame(Kind.DATA, 1, b"", b"g", END),
                    encode_frame(Kind.DATA, 1, b"", b"h", PIECES),
                )
            )

    run(test())


def test_pieces_without_end_leave_before_the_turn_is_over() -> None:
    """A generator that never waits must not fill the memory."""

    async def test() -> None:
        peer = Peer()
        async with accepting(peer) as theirs:
            assert peer.channel is not None
            for number in range(1000):
                peer.channel.send_piece(1, b"%03d" % number)
            early = FrameDecoder().feed(theirs.recv(65536))
            assert len(early) >= 7
            assert {(frame.kind, frame.stream, frame.flags) for frame in early} == {(Kind.DATA, 1, PIECES)}
            assert b"".join(frame.payload for frame in early).startswith(b"000001002")

    run(test())


def test_what_is_sent_before_the_connection_is_made_leaves_after_the_hello() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        acceptor, dialler = Peer(), Peer()
        loop = asyncio.get_running_loop()
        early = Channel(dialler, hello=hello())
        early.send(Kind.WAIT, 1)
        early.send(Kind.DATA, 2, b"", b"x" * 300_000)
        early.send(Kind.WAIT, 3)
        _, right = await loop.create_unix_connection(lambda: Channel(acceptor, expect_key=KEY), sock=theirs)
        await loop.create_unix_connection(lambda: early, sock=ours)
        await acceptor.next(Kind.WAIT, 1)
        await acceptor.next(Kind.DATA, 2)
        await acceptor.next(Kind.WAIT, 3)
        right.abort()
        early.abort()

    run(test())


def test_close_sends_what_is_queued() -> None:
    async def test() -> None:
        dialler, acceptor = Peer(), Peer()
        async with connected(dialler, acceptor) as (left, _):
            left.send(Kind.WAIT, 1)
            left.send(Kind.DATA, 2, b"", b"x" * 2_000_000)
            left.send(Kind.WAIT, 3)
            left.close()
            left.close()
            for kind, stream in ((Kind.WAIT, 1), (Kind.DATA, 2), (Kind.WAIT, 3)):
                await acceptor.next(kind, stream)
            await acceptor.lost.wait()
            await dialler.lost.wait()

    run(test())


def test_a_closed_channel_takes_frames_and_forgets_them() -> None:
    async def test() -> None:
        dialler, acceptor = Peer(), Peer()
        async with connected(dialler, acceptor) as (left, right):
            right.abort()
            await dialler.lost.wait()
            assert left.closed
            left.send(Kind.WAIT)
            left.send(Kind.DATA, 1, b"", b"x" * 500_000)
            await turns()
            left.close()
            left.abort()

    run(test())


def test_the_end_is_told_once_whoever_ends_it() -> None:
    async def test() -> None:
        for end in ("abort", "close", "both", "peer"):
            dialler, acceptor = Peer(), Peer()
            async with connected(dialler, acceptor) as (left, right):
                if end == "peer":
                    right.close()
                if end in {"abort", "both"}:
                    left.abort()
                if end in {"close", "both"}:
                    left.close()

    run(test())


def test_a_receiver_that_closes_is_still_given_the_rest_of_the_same_read_at_most() -> None:
    class ClosesAtFirst(Peer):
        def frame_received(self, channel: Channel, frame: Frame) -> None:
            super().frame_received(channel, frame)
            channel.abort()

    async def test() -> None:
        peer = ClosesAtFirst()
        async with accepting(peer) as theirs:
            theirs.send(HELLO + encode_frame(Kind.WAIT, 1))
            await peer.lost.wait()
            assert peer.frames.qsize() == 1

    run(test())


def test_only_unix_sockets_can_be_dialled() -> None:
    async def test() -> None:
        with pytest.raises(StartupError, match="tcp:1"):
            await connect_unix("tcp:1", lambda: Channel(Peer()))
        with pytest.raises(OSError, match="No such file"):
            await connect_unix("unix:/nonexistent/socket", lambda: Channel(Peer()))

    run(test())


CONNECT_AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.settimeout(30)
try:
    peer.sendall(bytes.fromhex(sys.argv[2]))
    print("read", peer.recv(100))
except ConnectionError as error:
    print("read", b"")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_even_with_the_key() -> None:
    async def test() -> None:
        peer = Peer()
        greeting = HELLO + encode_frame(Kind.WAIT)
        with tempfile.TemporaryDirectory(prefix="sv-") as folder:
            Path(folder).chmod(0o755)  # as if the folder's mode had not stopped them
            path = f"{folder}/s"
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(lambda: Channel(peer, expect_key=KEY), path)
            Path(path).chmod(0o666)
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", CONNECT_AS_NOBODY, path, greeting.hex()],
                capture_output=True,
                timeout=30,
                check=True,
            )
            server.close()
        assert done.stdout == b"read b''\n"
        await peer.lost.wait()
        assert peer.frames.empty()
        assert peer.times_lost == 1

    run(test())
