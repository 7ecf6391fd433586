"""The supervisor's loop, and the questions that it asks of the processes that it keeps up."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Generator
from functools import partial

import pytest

from salver.engine.local import pulse
from salver.engine.local.pulse import UNANSWERED, Pulse
from salver.engine.local.selector_loop import SelectorLoop

TOO_LATE_S = 30.0


class Timeout(Exception):
    pass


def fail() -> None:
    raise Timeout


@pytest.fixture
def loop() -> Generator[SelectorLoop]:
    loop = SelectorLoop()
    loop.later(TOO_LATE_S, fail)
    yield loop
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    loop.close()


def test_timers_run_when_they_are_due_and_once(loop: SelectorLoop) -> None:
    order: list[str] = []
    loop.later(0.02, partial(order.append, "second"))
    loop.later(0.0, partial(order.append, "first"))
    loop.later(0.04, loop.end)
    loop.run()
    assert order == ["first", "second"]


def test_signals_come_one_by_one_and_not_after_the_end(loop: SelectorLoop) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")
        loop.end()

    loop.heed_signals({signal.SIGUSR1: first, signal.SIGUSR2: partial(order.append, "never")})
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.run()
    assert order == ["first"]


def test_what_was_forgotten_a_moment_ago_is_not_called(loop: SelectorLoop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def forget_the_other(mine: int) -> None:
        called.append(mine)
        loop.forget(pairs[1 - mine][0])
        loop.end()

    for number, (ours, theirs) in enumerate(pairs):
        loop.watch(ours, partial(forget_the_other, number))
        theirs.send(b"x")
    loop.run()
    assert len(called) == 1
    for pair in pairs:
        for end in pair:
            end.close()


def test_its_descriptors_are_those_that_a_child_must_close(loop: SelectorLoop) -> None:
    ours, theirs = socket.socketpair()
    before = set(loop.descriptors())
    loop.watch(ours, loop.end)
    assert set(loop.descriptors()) - before == {ours.fileno()}
    loop.forget(ours)
    assert set(loop.descriptors()) == before
    ours.close()
    theirs.close()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "ASKED_EVERY_S", 0.01)


@pytest.mark.usefixtures("often")
def test_silence_is_told_once_after_questions_without_an_answer(loop: SelectorLoop) -> None:
    told: list[str] = []
    asked = Pulse(loop)
    theirs = asked.theirs.dup()
    asked.start(partial(told.append, "silent"))
    loop.later(0.2, loop.end)
    loop.run()
    assert told == ["silent"]
    assert theirs.recv(100) == b"?" * UNANSWERED
    asked.stop()
    theirs.close()


@pytest.mark.usefixtures("often")
def test_answers_begin_the_count_again(loop: SelectorLoop) -> None:
    asked = Pulse(loop)
    theirs = asked.theirs.dup()
    questions = 0

    def echo() -> None:
        nonlocal questions
        data = theirs.recv(100)
        questions += len(data)
        theirs.send(data)
        if questions > 5 * UNANSWERED:
            loop.end()

    loop.watch(theirs, echo)
    asked.start(fail)
    loop.run()
    loop.forget(theirs)
    asked.stop()
    theirs.close()


@pytest.mark.usefixtures("often")
def test_one_that_closes_its_end_has_as_long_as_one_that_does_not_answer(loop: SelectorLoop) -> None:
    asked = Pulse(loop)
    asked.start(loop.end)
    watched = loop.descriptors()
    loop.run()
    assert len(loop.descriptors()) == len(watched) - 1, "what is closed would be ready for ever"
    asked.stop()
