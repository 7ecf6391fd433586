"""The physical limit: a proxy and a replica over a Unix socket with uvloop and httptools, and nothing else.

python bare_pair.py 8000 noop

The same hops as Salver's: proxy -> replica (`noop`, `echo`, `stream_N`), proxy -> ingress -> child (`composed`), or a
chain of five. No limits, deadlines, queues, logs, metrics, updates or errors; what it answers in a second is what is
left when all of these are free. Frames are a length, a request's number, a kind, and the body.
"""

import asyncio
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from struct import Struct
from typing import cast

import httptools
import uvloop

HEADER = Struct("<IIB")
WHOLE, CHUNK, END = 0, 1, 2
LENGTHS = {"composed": 2, "chain": 5}
EVENT = b"data: token\n\n"
KEPT_BYTES = 64 * 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, PR_SET_PDEATHSIG = -1, -3, 1
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Joined(asyncio.Protocol):
    """Writes once per turn of the loop: system calls cost more than bytes."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def write(self, *parts: bytes) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self.waiting += parts

    def flush(self) -> None:
        if not self.transport.is_closing():
            self.transport.writelines(self.waiting)
        self.waiting = []


class Frames(Joined):
    def __init__(self, received: Callable[["Frames", int, int, bytes], None]) -> None:
        super().__init__()
        self.received, self.buffer = received, bytearray()

    def send(self, number: int, kind: int, body: bytes) -> None:
        self.write(HEADER.pack(len(body), number, kind), body)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        start, end = 0, len(self.buffer)
        while end - start >= HEADER.size:
            size, number, kind = HEADER.unpack_from(self.buffer, start)
            if end - start < HEADER.size + size:
                break
            start += HEADER.size + size
            self.received(self, number, kind, bytes(memoryview(self.buffer)[start - size : start]))
        del self.buffer[:start]


class Callee:
    """The next process in the chain, and who waits for its answers."""

    async def connect(self, path: str) -> "Callee":
        self.answers: dict[int, Callable[[int, bytes], None]] = {}
        self.number = 0
        _, self.frames = await asyncio.get_running_loop().create_unix_connection(lambda: Frames(self.answered), path)
        return self

    def call(self, body: bytes, answer: Callable[[int, bytes], None]) -> None:
        self.number = (self.number + 1) & 0xFFFFFFFF
        self.answers[self.number] = answer
        self.frames.send(self.number, WHOLE, body)

    def answered(self, _: Frames, number: int, kind: int, body: bytes) -> None:
        (self.answers[number] if kind == CHUNK else self.answers.pop(number))(kind, body)


class Client(Joined):
    def __init__(self, replica: Callee) -> None:
        super().__init__()
        self.replica, self.parser, self.body, self.streams = replica, httptools.HttpRequestParser(self), [], False

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        self.replica.call(b"".join(self.body), self.answer)
        self.body = []

    def answer(self, kind: int, body: bytes) -> None:
        if kind == WHOLE:
            self.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(body), body)
        elif kind == CHUNK:
            self.write(b"" if self.streams else STREAM_HEAD, b"%x\r\n" % len(body), body, b"\r\n")
        else:
            self.write(b"0\r\n\r\n")
        self.streams = kind == CHUNK


async def replica(path: str, behind: str | None, application: str, listening: int) -> None:
    callee = await Callee().connect(behind) if behind else None

    def received(caller: Frames, number: int, kind: int, body: bytes) -> None:
        if callee:
            callee.call(body, lambda kind, body: caller.send(number, kind, body))
        elif application.startswith("stream_"):
            for _ in range(int(application.removeprefix("stream_"))):
                caller.send(number, CHUNK, EVENT)
            caller.send(number, END, b"")
        else:
            caller.send(number, WHOLE, body if application == "echo" else b"hello")

    await asyncio.get_running_loop().create_unix_server(lambda: Frames(received), path)
    os.close(listening)
    await asyncio.Event().wait()


async def proxy(port: int, path: str, listening: int) -> None:
    callee = await Callee().connect(path)
    await asyncio.get_running_loop().create_server(lambda: Client(callee), "127.0.0.1", port)
    os.close(listening)
    await asyncio.Event().wait()


def process(main: Callable[[int], Coroutine[None, None, None]]) -> None:
    """Forks a process, and returns when it listens: it closes the pipe then."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        uvloop.run(main(writer))
    os.close(writer)
    os.read(reader, 1)


def start(port: int, application: str) -> None:
    for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):  # else each large body is mapped and zeroed anew
        ctypes.CDLL(None).mallopt(option, KEPT_BYTES)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        paths = [f"{folder}/{number}" for number in range(LENGTHS.get(application, 1))]
        for path, behind in reversed(list(zip(paths, [*paths[1:], None], strict=True))):
            process(partial(replica, path, behind, application))
        process(partial(proxy, port, paths[0]))
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    start(int(sys.argv[1]), sys.argv[2])
