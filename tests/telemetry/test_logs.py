"""What log records carry, and the text line; in fresh interpreters where logging itself is configured."""

from __future__ import annotations

import copy
import logging
import pickle  # noqa: TID251 - logging's own handlers do
import subprocess
import sys
from collections.abc import Callable, Generator

import pytest

from salver.telemetry.record_attributes import add_record_attributes


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Generator[Kept]:
    """A user's handler on the root logger; the record factory is as before afterwards."""
    before = logging.getLogRecordFactory()
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)
    assert logging.getLogRecordFactory() is before
    logging.setLogRecordFactory(before)


@pytest.fixture
def remove(kept: Kept) -> Generator[Callable[[], None]]:
    remove = add_record_attributes(lambda: {"request_id": "r1", "route": "/a"})
    yield remove
    remove()


@pytest.mark.usefixtures("remove")
@pytest.mark.parametrize(
    "name", ["ray.serve", "ray.serve.model.deep", "salver.serve", "salver.serve.x", "salver.replica"]
)
def test_records_of_serve_loggers_and_those_below_carry_the_attributes(kept: Kept, name: str) -> None:
    logging.getLogger(name).warning("text %s", 1)
    [record] = kept.records
    assert (record.request_id, record.route, record.getMessage()) == ("r1", "/a", "text 1")  # type: ignore[attr-defined]
    assert logging.Formatter("%(request_id)s %(route)s %(message)s").format(record) == "r1 /a text 1"
    assert logging.Formatter("{request_id} {message}", style="{").format(record) == "r1 text 1"
    assert {"request_id", "route", "msg"} <= {*record.__dict__}, "formatters that write JSON look there"


@pytest.mark.usefixtures("remove")
@pytest.mark.parametrize("name", ["root", "user", "ray", "ray.serve_not", "salverx"])
def test_records_of_others_do_not(kept: Kept, name: str) -> None:
    logging.getLogger(name).warning("text")
    assert not hasattr(kept.records[0], "request_id")


@pytest.mark.usefixtures("remove")
def test_filters_of_the_users_logger_see_them(kept: Kept) -> None:
    logger = logging.getLogger("ray.serve.filtered")
    logger.addFilter(lambda record: record.request_id != "r1")  # type: ignore[attr-defined]
    logger.warning("text")
    assert kept.records == []


@pytest.mark.usefixtures("remove")
def test_extra_of_the_same_name_wins(kept: Kept) -> None:
    logging.getLogger("ray.serve").warning("text", extra={"request_id": "mine", "model": "m"})
    [record] = kept.records
    assert (record.request_id, record.route, record.model) == ("mine", "/a", "m")  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="lineno"):
        logging.getLogger("ray.serve").warning("text", extra={"lineno": 1})


@pytest.mark.usefixtures("remove")
@pytest.mark.parametrize("duplicate", [copy.copy, lambda record: pickle.loads(pickle.dumps(record))])
def test_copies_for_queues_keep_them(kept: Kept, duplicate: Callable[[object], logging.LogRecord]) -> None:
    logging.getLogger("ray.serve").warning("text %s", "x")
    again = duplicate(kept.records[0])
    assert (again.request_id, again.getMessage()) == ("r1", "text x")  # type: ignore[attr-defined]


def test_several_may_be_removed_in_any_order(kept: Kept) -> None:
    logger = logging.getLogger("ray.serve")
    before = logging.getLogRecordFactory()
    first = add_record_attributes(lambda: {"request_id": "first"})
    second = add_record_attributes(lambda: {"request_id": "second"})
    logger.warning("both")
    first()
    logger.warning("second")
    second()
    second()
    assert logging.getLogRecordFactory() is before
    logger.warning("none")
    assert [getattr(record, "request_id", None) for record in kept.records] == ["second", "second", None]


def test_a_factory_that_the_user_put_around_ours_stays(kept: Kept) -> None:
    before = logging.getLogRecordFactory()
    remove = add_record_attributes(lambda: {"request_id": "r1"})
    ours = logging.getLogRecordFactory()

    def users(*args: object, **kwargs: object) -> logging.LogRecord:
        record = ours(*args, **kwargs)
        record.by_user = True
        return record

    logging.setLogRecordFactory(users)
    logging.getLogger("ray.serve").warning("with")
    remove()
    logging.getLogger("ray.serve").warning("without")
    assert logging.getLogRecordFactory() is users
    logging.setLogRecordFactory(before)
    assert [hasattr(record, "request_id") for record in kept.records] == [True, False]
    assert all(record.by_user for record in kept.records)  # type: ignore[attr-defined]


LINES = r"""
import logging
from salver.telemetry.logs import configure_logging
from salver.telemetry.record_attributes import add_record_attributes
configure_logging("replica", "app#D#x")
logging.getLogger("salver.replica").warning("before")
add_record_attributes(lambda: {"request_id": "r1"})
logging.getLogger("salver.replica").error("ours\x1b[0m")
logging.getLogger("ray.serve").info("user %d", 1)
logging.getLogger("ray.serve.child").info("child")
logging.getLogger("salver.serve").info("extra", extra={"request_id": "a\x07b"})
logging.getLogger("salver.serve").debug("not shown")
"""


def test_the_text_line() -> None:
    done = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, timeout=60, check=True)
    lines = [(line.split()[0], line.split(" ", 3)[3]) for line in done.stderr.splitlines()]
    assert lines == [
        ("WARNING", "replica app#D#x -- before"),
        ("ERROR", r"replica app#D#x r1 -- ours\x1b[0m"),
        ("INFO", "replica app#D#x r1 -- <string>:9 user 1"),
        ("INFO", "replica app#D#x r1 -- <string>:10 child"),
        ("INFO", r"replica app#D#x a\x07b -- <string>:11 extra"),
    ]
