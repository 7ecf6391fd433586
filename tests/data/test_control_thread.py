"""The control thread beside a real loop: beats, blockages with their place, an end without a trace."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest

from harness.waiting import eventually
from salver.data.load_board import LoadBoard
from salver.data.replica.control_thread import ControlThread

SLOT = 3
WITHIN_S = 20.0


@asynccontextmanager
async def watched(board: LoadBoard) -> AsyncIterator[ControlThread]:
    control = ControlThread(board, SLOT, "Translator")
    control.start()
    try:
        yield control
    finally:
        control.stop()


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What the control thread logs from now on."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger = logging.getLogger("salver.replica")
    handler = Collect()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


def owed_ms(board: LoadBoard) -> int:
    return board.beats[SLOT] - board.loop_beats[SLOT]


def block(until_true: Callable[[], object]) -> None:
    """Keep the loop from running."""
    deadline = time.monotonic() + WITHIN_S
    while not until_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_idle_loop_is_well_and_its_memory_is_known(messages: list[str]) -> None:
    async def main() -> None:
        board = LoadBoard()
        first = int(time.monotonic() * 1000)
        async with watched(board):
            await until(lambda: board.beats[SLOT])
            assert 0 <= board.beats[SLOT] - first < WITHIN_S * 1000
            await until(lambda: board.rss[SLOT])
            rss = psutil.Process().memory_info().rss
            assert rss / 2 < board.rss[SLOT] < rss * 2
            before = board.beats[SLOT]
            await until(lambda: board.beats[SLOT] > before)
            await until(lambda: owed_ms(board) == 0)  # the loop answers a beat after it was written
        assert [slot for slot in range(10) if board.beats[slot]] == [SLOT]

    asyncio.run(main())
    assert messages == []


def test_a_blocked_loop_is_told_with_its_line_once_and_again_when_it_is_back(messages: list[str]) -> None:
    async def handler(board: LoadBoard) -> None:
        block(lambda: owed_ms(board) >= 2000)

    async def main() -> None:
        board = LoadBoard()
        async with watched(board):
            await until(lambda: board.beats[SLOT])
            board.cells[SLOT] = 1
            await handler(board)
            assert board.place(SLOT).startswith("tests/data/test_control_thread.py:")
            await until(lambda: len(messages) == 2)
            await until(lambda: owed_ms(board) == 0)

    asyncio.run(main())
    warning, end = messages
    assert "the event loop of Translator has been blocked for 1 s at tests/data/test_control_thread.py:" in warning
    assert "`await asyncio.to_thread(...)`" in warning
    assert "`def`" in warning
    place, _, function = warning.splitlines()[0].partition(" at ")[2].partition(". ")[0].partition(" in ")
    first, last = block.__code__.co_firstlineno, block.__code__.co_firstlineno + 5
    assert function in {"block", "owed_ms", "<lambda>"}
    assert function != "block" or first < int(place.rpartition(":")[2]) <= last
    assert warning.splitlines()[1].endswith(", in main"), "neither our own frames, nor what started the loop"
    assert "in handler\n    block(lambda: owed_ms(board) >= 2000)" in warning
    assert "answers again after " in end
    assert 2.0 <= float(end.split("after ")[1].removesuffix(" s")) < WITHIN_S


def test_every_blockage_is_told_and_the_stack_of_one_place_only_once(messages: list[str]) -> None:
    async def main() -> None:
        board = LoadBoard()
        board.cells[SLOT] = 1
        async with watched(board):
            for number in (1, 3):
                while len(messages) < number:
                    time.sleep(0.01)  # the same line both times
                await until(lambda: len(messages) == number + 1)  # noqa: B023 - called at once

    asyncio.run(main())
    assert ['File "' in message for message in messages] == [True, False, False, False]
    assert ", as before" in messages[2]


def test_a_loop_that_runs_no_request_is_asked_too() -> None:
    async def main() -> None:
        board = LoadBoard()
        async with watched(board):
            await until(lambda: board.beats[SLOT])
            block(lambda: owed_ms(board) >= 500)

    asyncio.run(main())


def test_it_ends_also_when_the_loop_is_closed_and_without_a_start() -> None:
    board = LoadBoard()
    ControlThread(board, SLOT, "Translator").stop()

    async def main() -> ControlThread:
        control = ControlThread(board, SLOT, "Translator")
        control.start()
        await until(lambda: board.beats[SLOT])
        return control

    control = asyncio.run(main())
    board.cells[SLOT] = 1
    eventually(
        "it notices the closed loop",
        lambda: not [each for each in threading.enumerate() if each.name == "salver-control"],
        WITHIN_S,
    )
    control.stop()
    control.stop()


STOPPED = """
import asyncio, json, logging, os, signal, sys, time
from salver.data.load_board import LoadBoard
from salver.data.replica.control_thread import ControlThread

messages = []
class Collect(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("salver.replica").addHandler(Collect())

async def main():
    board = LoadBoard()
    board.cells[0] = 1
    control = ControlThread(board, 0, "Translator")
    control.start()
    while not board.beats[0]:
        await asyncio.sleep(0.01)
    before = now = time.monotonic()
    print("ready", flush=True)
    while now - before < 2:
        await asyncio.sleep(0.01)
        before, now = now, time.monotonic()
    after = board.beats[0]
    worst = 0
    while board.beats[0] < after + 1500:
        worst = max(worst, board.beats[0] - board.loop_beats[0])
        await asyncio.sleep(0.01)
    control.stop()
    print(json.dumps([worst, messages]), flush=True)

asyncio.run(main())
"""


def test_a_process_that_was_stopped_is_not_said_to_have_blocked() -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    psutil.Process(process.pid).suspend()
    time.sleep(4)  # the length of the stop is what this is about
    psutil.Process(process.pid).resume()
    output, _ = process.communicate(timeout=60)
    worst, messages = json.loads(output)
    assert messages == []
    assert worst < 2000
    assert process.returncode == 0
