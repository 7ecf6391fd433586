"""The threads of ``def`` handlers: as many as are needed, results to whom still waits, nothing kept, nothing lost."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from salver.data.replica.threads import Threads

from .scene import run


class Value: ...


def test_threads_are_started_as_they_are_needed_and_used_again() -> None:
    async def main() -> None:
        threads = Threads(2, "name")
        first = [await threads.run(threading.current_thread) for _ in range(3)]
        assert {thread.name for thread in first} == {"name_1"}
        barrier = threading.Barrier(2)
        await asyncio.gather(*[threads.run(barrier.wait) for _ in range(4)])
        threads.retire()

    run(main())


def test_what_is_cancelled_before_a_thread_has_it_is_not_called_and_what_runs_goes_on() -> None:
    async def main() -> None:
        threads, release, called = Threads(1, "name"), threading.Event(), list[str]()
        running = threads.run(lambda: (release.wait(30), called.append("running")))
        waiting = threads.run(lambda: called.append("waiting"))
        last = threads.run(lambda: called.append("last"))
        running.cancel()
        waiting.cancel()
        release.set()
        await last
        assert called == ["running", "last"]
        threads.close()

    run(main())


def test_what_is_raised_reaches_the_caller_and_results_are_not_kept() -> None:
    async def main() -> None:
        threads = Threads(1, "name")
        with pytest.raises(SystemExit):
            await threads.run(lambda: exec("raise SystemExit"))
        kept = weakref.ref(await threads.run(Value))
        await threads.run(int)
        assert kept() is None
        threads.retire()

    run(main())
