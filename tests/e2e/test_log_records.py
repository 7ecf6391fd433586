"""Log records of user code: each carries its own request's id, in replicas and in local testing mode."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from harness.http import Answer, get_later
from harness.instance import SalverRun
from salver import serve

WITHIN_S = 30.0

TALKERS = """
import asyncio
import logging
import threading
from pathlib import Path
from salver import serve

FIELDS = "%(request_id)s|%(application)s|%(deployment)s|%(replica)s|%(route)s|%(message)s"
logger = logging.getLogger("ray.serve.talkers")

def write_to(path):
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(FIELDS))
    logger.addHandler(handler)

@serve.deployment(max_ongoing_requests=2)
class Async:
    def __init__(self, path):
        write_to(path)
        self.both = asyncio.Barrier(2)

    async def __call__(self, request):
        logger.info("first of %s", request.query_params["said"])
        await self.both.wait()
        logger.info("second of %s", request.query_params["said"])

@serve.deployment(max_ongoing_requests=2)
class Threads:
    def __init__(self, path):
        write_to(path)
        self.both = threading.Barrier(2, timeout=30)

    def __call__(self, request):
        logger.info("first of %s", request.query_params["said"])
        self.both.wait()
        logger.info("second of %s", request.query_params["said"])
        thread = threading.Thread(target=logger.info, args=("no request of none",))
        thread.start()
        thread.join()

async_app = Async.bind("records.txt")
threads_app = Threads.bind("records.txt")
"""


def ask_two(url: str) -> dict[str, Answer]:
    """Two requests that run at once, by what they call themselves."""
    waiting = {said: get_later(f"{url}?said={said}") for said in ("alpha", "beta")}
    return {said: future.result(WITHIN_S) for said, future in waiting.items()}


@pytest.mark.parametrize(("app", "deployment"), [("async_app", "Async"), ("threads_app", "Threads")])
def test_records_of_concurrent_requests_carry_their_own_ids(
    salver_run: Callable[..., SalverRun], tmp_path: Path, app: str, deployment: str
) -> None:
    run = salver_run(
        f"app:{app}", "--port", "0", "--route-prefix", "/talk", "--name", "talk", files={"app.py": TALKERS}
    )
    answers = ask_two(run.url)
    ids = {said: answer.headers["x-request-id"] for said, answer in answers.items()}
    assert {answer.status for answer in answers.values()} == {200}
    assert len(set(ids.values())) == 2

    records = [line.split("|") for line in (tmp_path / "records.txt").read_text().splitlines()]
    with_request = [record for record in records if not record[-1].endswith("none")]
    assert len(with_request) == 4
    for request_id, application, name, replica, route, message in with_request:
        assert request_id == ids[message.split()[-1]]
        assert (application, name, route) == ("talk", deployment, "/talk")
        assert replica.startswith(f"talk#{deployment}#")
    for record in records:
        assert record[1:3] == ["talk", deployment], "also in threads of the user's, which have no request"

    for said, request_id in ids.items():  # and the lines on the console
        run.wait_for_output(
            rf"INFO .* replica talk#{deployment}#\S+ {re.escape(request_id)} -- app\.py:\d+ second of {said}\n"
        )


class Kept(logging.Handler):
    """A user's own handler, in the user's own process."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


logger = logging.getLogger("salver.serve.local")


@serve.deployment(max_ongoing_requests=2)
class Local:
    def __init__(self) -> None:
        self.both = threading.Barrier(2, timeout=WITHIN_S)

    def talk(self, said: str) -> str:
        self.both.wait()
        logger.warning("talks", extra={"said": said})
        return said

    async def talk_async(self, said: str) -> str:
        logger.warning("talks", extra={"said": said})
        return said


@pytest.fixture
def kept() -> Generator[Kept]:
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def test_local_testing_mode_adds_attributes_and_takes_that_back(kept: Kept) -> None:
    factory = logging.getLogRecordFactory()
    handlers = [*logging.getLogger("salver").handlers, *logging.getLogger("ray.serve").handlers]
    handle: Any = serve.run(Local.bind(), name="here", _local_testing_mode=True)
    try:
        both = [handle.talk.remote(said) for said in ("alpha", "beta")]
        assert [response.result(timeout_s=WITHIN_S) for response in both] == ["alpha", "beta"]
        assert handle.talk_async.remote("gamma").result(timeout_s=WITHIN_S) == "gamma"
    finally:
        serve.shutdown()
    records: list[Any] = [record for record in kept.records if record.name == logger.name]
    assert sorted(record.said for record in records) == ["alpha", "beta", "gamma"]
    assert len({record.request_id for record in records}) == 3
    for record in records:
        assert record.request_id
        assert (record.application, record.deployment) == ("here", "Local")
        assert record.replica.startswith("here#Local#")

    logger.warning("afterwards")
    assert not hasattr(kept.records[-1], "request_id")
    assert logging.getLogRecordFactory() is factory
    assert [*logging.getLogger("salver").handlers, *logging.getLogger("ray.serve").handlers] == handlers
