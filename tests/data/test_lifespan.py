"""The lifespan protocol with applications that keep it, break it, or have never heard of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from salver.data.replica.asgi import InvalidASGI
from salver.data.replica.hosted_app import HostedApp, leave_to_ingress
from salver.data.replica.lifespan import Lifespan, LifespanFailed

from .scene import run

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def starlette(lifespan: Callable[..., Any]) -> Starlette:
    return Starlette(lifespan=asynccontextmanager(lifespan))


class TestStart:
    def test_returns_when_the_application_is_up_and_stop_when_it_is_down(self) -> None:
        events: list[str] = []

        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            events.append("up")
            yield
            await asyncio.sleep(0)
            events.append("down")

        async def test() -> None:
            life = Lifespan(starlette(lifespan))
            await life.start()
            assert events == ["up"]
            await life.stop(10)
            assert events == ["up", "down"]
            await life.stop(10)  # again is nothing

        run(test())

    def test_keeps_the_state_that_the_lifespan_yields(self) -> None:
        async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, int]]:
            yield {"model": 7}

        async def test() -> None:
            life = Lifespan(starlette(lifespan))
            await life.start()
            assert life.state == {"model": 7}
            await life.stop(10)

        run(test())

    def test_raises_what_the_startup_raised(self) -> None:
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            raise LookupError("no weights")
            yield

        async def test() -> None:
            with pytest.raises(LookupError, match="no weights"):
                await Lifespan(starlette(lifespan)).start()

        run(test())

    def test_a_startup_that_exits_does_not_end_the_process(self) -> None:
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            raise SystemExit("no GPU")
            yield

        async def test() -> None:
            with pytest.raises(RuntimeError, match="the lifespan raised SystemExit: no GPU"):
                await Lifespan(starlette(lifespan)).start()

        run(test())

    def test_an_application_that_only_says_that_it_failed(self) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        async def test() -> None:
            with pytest.raises(LifespanFailed, match="no database"):
                await Lifespan(app).start()

        run(test())

    def test_an_application_that_fails_and_stays_is_cancelled(self) -> None:
        cancelled: list[bool] = []

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            await send({"type": "lifespan.startup.failed"})
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        async def test() -> None:
            with pytest.raises(LifespanFailed, match="its startup failed"):
                await Lifespan(app).start()
            assert cancelled == [True]

        run(test())

    def test_when_the_start_is_cancelled_the_application_is(self) -> None:
        cancelled: list[bool] = []
        entered = asyncio.Event()

        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)
            yield

        async def test() -> None:
            starting = asyncio.create_task(Lifespan(starlette(lifespan)).start())
            await entered.wait()
            starting.cancel()
            await asyncio.wait({starting})
            assert starting.cancelled()
            assert cancelled == [True]

        run(test())


class TestApplicationsWithoutLifespan:
    def test_one_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http", "only HTTP here"

        async def test() -> None:
            life = Lifespan(app)
            await life.start()
            await life.stop(10)

        with caplog.at_level(logging.INFO, "salver.replica"):
            run(test())
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "has no lifespan: it raised AssertionError: only HTTP here" in caplog.text

    def test_one_that_returns(self) -> None:
        async def app(scope: Any, receive: Receive, send: Send) -> None:
            return

        async def test() -> None:
            life = Lifespan(app)
            await life.start()
            await life.stop(10)

        run(test())

    def test_one_that_answers_as_if_it_were_a_request(self) -> None:
        refused: list[str] = []

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            try:
                await send({"type": "http.response.start", "status": 200})
            except InvalidASGI as error:
                refused.append(str(error))
                raise

        async def test() -> None:
            await Lifespan(app).start()

        run(test())
        assert "in its lifespan" in refused[0]


class TestStop:
    def test_a_shutdown_that_hangs_is_cancelled_in_time(self, caplog: pytest.LogCaptureFixture) -> None:
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            yield
            await asyncio.Event().wait()

        async def test() -> None:
            life = Lifespan(starlette(lifespan))
            await life.start()
            started = time.monotonic()
            await life.stop(0.05)
            assert time.monotonic() - started < 10

        run(test())
        assert "took longer than 0.05 s and was cancelled" in caplog.text

    def test_a_shutdown_that_raises_is_logged_with_its_traceback(self, caplog: pytest.LogCaptureFixture) -> None:
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            yield
            raise LookupError("the cache is gone")

        async def test() -> None:
            life = Lifespan(starlette(lifespan))
            await life.start()
            await life.stop(10)

        run(test())
        assert "failed at its shutdown" in caplog.text
        assert "LookupError: the cache is gone" in caplog.text

    def test_a_lifespan_that_breaks_while_it_serves_is_logged_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        breaks = asyncio.Event()
        broken = asyncio.Event()

        async def worker() -> None:
            await breaks.wait()
            broken.set()
            raise LookupError("the feed has ended")

        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as group:
                group.start_soon(worker)
                yield

        async def test() -> None:
            life = Lifespan(starlette(lifespan))
            await life.start()
            breaks.set()
            await broken.wait()
            while "LookupError" not in caplog.text:
                await asyncio.sleep(0)
            await life.stop(10)

        run(test())
        assert "failed while it was served" in caplog.text

    def test_is_nothing_before_the_start(self) -> None:
        async def test() -> None:
            await Lifespan(Starlette()).stop(10)

        run(test())


class TestHostedApp:
    def test_each_request_has_a_state_of_its_own(self) -> None:
        states: list[dict[str, Any]] = []

        async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, int]]:
            yield {"model": 7}

        inner = starlette(lifespan)

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                await inner(scope, receive, send)
            else:
                states.append(dict(scope["state"]))
                scope["state"]["user"] = len(states)

        async def test() -> None:
            hosted = HostedApp(app, threads=2)
            await hosted.start()
            await hosted({"type": "http"}, nothing_to_receive, ignore)
            await hosted({"type": "http"}, nothing_to_receive, ignore)
            await hosted.stop(10)

        run(test())
        assert states == [{"model": 7}, {"model": 7}]

    def test_an_error_left_to_the_ingress_is_raised_and_nothing_more_is_sent(self) -> None:
        sent: list[Any] = []

        async def keep(message: Any) -> None:
            sent.append(message)

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                leave_to_ingress(scope, LookupError("gone"))
                await send({"type": "http.response.start", "status": 503})

        async def test() -> None:
            hosted = HostedApp(app, threads=2)
            await hosted.start()
            with pytest.raises(LookupError, match="gone"):
                await hosted({"type": "http"}, nothing_to_receive, keep)

        run(test())
        assert sent == []

    def test_the_pool_of_frameworks_has_a_thread_for_every_slot(self) -> None:
        async def test() -> None:
            limiter = anyio.to_thread.current_default_thread_limiter()
            await HostedApp(Starlette(), threads=3).start()
            assert limiter.total_tokens == 40
            hosted = HostedApp(Starlette(), threads=100)
            await hosted.start()
            assert limiter.total_tokens == 100

        run(test())


async def nothing_to_receive() -> Any:
    return {"type": "http.disconnect"}


async def ignore(message: Any) -> None:
    return
