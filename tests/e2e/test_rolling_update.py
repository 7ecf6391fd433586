"""Updates under constant load: no request fails, no answer is half old and half new, capacity never sinks."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
from versioned import Versioned

from harness.instance import SalverRun
from harness.open_load import OpenLoad, Sent
from harness.own_instance import FewestServing, OwnInstance, own_instance
from harness.waiting import eventually
from salver import serve
from salver.controller.client import ControlRefused

WITHIN_S = 60.0


@pytest.fixture
def instance() -> Generator[OwnInstance]:
    with own_instance() as started:
        yield started


def version_of(answer: Sent) -> str:
    """The version that gave it. Fails when it is not one whole answer of one replica."""
    words = answer.body.split(" ")
    assert len(words) == 5, answer
    assert words[:2] == words[2:4], f"half old, half new: {answer}"
    return words[0]


def assert_all_served(load: OpenLoad, versions: set[str]) -> None:
    assert load.failures() == []
    assert {version_of(each) for each in load.results} == versions


def assert_switched(load: OpenLoad, old: str, new: str, settled_at: int) -> None:
    """Zero loss, and after the update nothing old."""
    assert_all_served(load, {old, new})
    after = [each for each in load.results if each.number >= settled_at]
    assert {version_of(each) for each in after} == {new}


# --- new code ---------------------------------------------------------------------------------------------


def test_a_new_version_replaces_the_old_one_without_loss(instance: OwnInstance) -> None:
    serve.run(Versioned.options(num_replicas=3).bind("1"))
    before = set(instance.replicas("Versioned"))
    with OpenLoad(instance.url) as load, FewestServing(instance, "Versioned") as serving:
        load.wait_for(50)
        serve.run(Versioned.options(num_replicas=3).bind("2"))
        eventually("the old ones have gone", lambda: before.isdisjoint(instance.pids("replica")), WITHIN_S)
        settled_at = load.sent
        load.wait_for(50)
    assert_switched(load, "1", "2", settled_at)
    assert serving.fewest == 3, "never fewer than before"
    assert len(instance.replicas("Versioned")) == 3


MODULE = """
import asyncio
from salver import serve

VERSION = "1"

@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Edited:
    async def __call__(self, request):
        await asyncio.sleep(0.02)
        return VERSION

app = Edited.bind()
"""


def test_an_edited_module_is_a_new_version(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("edited:app", "--port", "0", files={"edited.py": MODULE})
    again = ("run", "edited:app", "--instance", run.name, "--non-blocking")
    before = sorted(run.pids()["replica"])
    with OpenLoad(run.url) as load:
        load.wait_for(20)
        assert run.cli(*again, timeout=WITHIN_S).returncode == 0
        assert sorted(run.pids()["replica"]) == before, "nothing was edited"

        (run.cwd / "edited.py").write_text(MODULE.replace('"1"', '"2"'))
        assert run.cli(*again, timeout=WITHIN_S).returncode == 0
        settled_at = load.sent
        load.wait_for(20)

        (run.cwd / "edited.py").write_text(MODULE.replace("async def", "def __init__(self): 1 / 0\n    async def"))
        failed = run.cli(*again, timeout=WITHIN_S)
        assert failed.returncode == 1
        assert "ZeroDivisionError: division by zero" in failed.stderr + failed.stdout
        load.wait_for(20)
    assert load.failures() == []
    assert {each.body for each in load.results} == {"1", "2"}
    assert {each.body for each in load.results if each.number >= settled_at} == {"2"}


def test_a_broken_version_leaves_the_old_one_serving_until_the_rollback(instance: OwnInstance) -> None:
    serve.run(Versioned.bind("1"))
    before = set(instance.replicas("Versioned"))
    with OpenLoad(instance.url) as load, FewestServing(instance, "Versioned") as serving:
        load.wait_for(20)
        with pytest.raises(RuntimeError, match="ValueError: broken cannot work"):
            serve.run(Versioned.bind("broken"))
        failed = instance.application()
        assert failed is not None
        assert failed.status == "DEPLOY_FAILED"
        assert "raise ValueError" in failed.message, "the user's traceback"
        load.wait_for(50)

        instance.control.rollback("default")
        view = instance.wait_settled()
        assert (view.status, view.message) == ("RUNNING", "")
        load.wait_for(20)
    assert_all_served(load, {"1"})
    assert serving.fewest == 2
    assert set(instance.replicas("Versioned")) == before


def test_a_rollback_of_a_version_that_works_rolls_as_well(instance: OwnInstance) -> None:
    serve.run(Versioned.bind("1"))
    with pytest.raises(ControlRefused, match="default"):
        instance.control.rollback("default")
    with OpenLoad(instance.url) as load:
        serve.run(Versioned.bind("2"))
        load.wait_for(20)
        instance.control.rollback("default")
        assert instance.wait_settled().status == "RUNNING"
        settled_at = load.sent
        load.wait_for(20)
    assert load.failures() == []
    assert {version_of(each) for each in load.results if each.number >= settled_at} == {"1"}


# --- answers that take longer than the update -------------------------------------------------------------


class Stream:
    """A request whose answer has begun."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WITHIN_S)
        self._connection.request("GET", f"{parts.path}?{parts.query}")
        self._response = self._connection.getresponse()
        self._begun = self._response.read(1)

    def read(self) -> str:
        """All of it. Raises what a client gets when it was cut."""
        return (self._begun + self._response.read()).decode()

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@contextmanager
def get_streams(instance: OwnInstance, *, takes_s: float) -> Generator[list[Stream]]:
    """Some on each replica."""
    with ExitStack() as opened:
        streams = [Stream(f"{instance.url}?takes_s={takes_s}") for _ in range(6)]
        for stream in streams:
            opened.callback(stream.close)
        yield streams


@pytest.mark.parametrize("change", ["update", "scale down", "delete"])
def test_answers_that_have_begun_come_to_their_end(instance: OwnInstance, change: str) -> None:
    serve.run(Versioned.bind("1"))
    with get_streams(instance, takes_s=2.0) as streams:
        if change == "update":
            serve.run(Versioned.bind("2"))
        elif change == "scale down":
            serve.run(Versioned.options(num_replicas=1).bind("1"))
        else:
            serve.delete("default", _blocking=False)
        answers = [stream.read() for stream in streams]
    assert [answer.split(" ")[0] for answer in answers] == ["1"] * len(streams)
    assert all(answer.split(" ")[:2] == answer.split(" ")[2:4] for answer in answers)


def test_answers_that_take_longer_than_the_drain_are_cut_and_look_so(instance: OwnInstance) -> None:
    serve.run(Versioned.options(graceful_shutdown_timeout_s=0.5).bind("1"))
    with get_streams(instance, takes_s=60.0) as streams:
        serve.run(Versioned.bind("2"))
        for stream in streams:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                stream.read()


# --- something else in the middle of an update ------------------------------------------------------------


def test_an_update_of_an_update_converges_to_the_last(instance: OwnInstance) -> None:
    serve.run(Versioned.bind("1"))
    with OpenLoad(instance.url) as load, FewestServing(instance, "Versioned") as serving:
        instance.deploy(Versioned.bind("2", constructs_s=1.0))
        load.wait_for(50)
        instance.deploy(Versioned.bind("broken", constructs_s=0.2))
        load.wait_for(50)
        serve.run(Versioned.bind("4"))
        settled_at = load.sent
        load.wait_for(50)
    assert load.failures() == []
    assert {version_of(each) for each in load.results} <= {"1", "2", "4"}
    assert {version_of(each) for each in load.results if each.number >= settled_at} == {"4"}
    assert serving.fewest == 2
    instance.wait_nothing_leaves()


def test_scaling_in_the_middle_of_an_update(instance: OwnInstance) -> None:
    serve.run(Versioned.bind("1"), external_scaler_enabled=True)
    with OpenLoad(instance.url) as load, FewestServing(instance, "Versioned") as serving:
        update = threading.Thread(
            target=serve.run, args=(Versioned.bind("2", constructs_s=0.5),), kwargs={"external_scaler_enabled": True}
        )
        update.start()
        eventually(
            "the update has begun", lambda: len(instance.pids("replica")) > 2, WITHIN_S
        )  # else it would undo it
        instance.control.scale("default", "Versioned", 4)
        load.wait_for(20)
        update.join(WITHIN_S)
        assert not update.is_alive()
        eventually("four of the new version run", lambda: len(instance.replicas("Versioned")) == 4, WITHIN_S)
        settled_at = load.sent
        load.wait_for(50)
        instance.control.scale("default", "Versioned", 2)
        eventually("two of them have gone", lambda: len(instance.pids("replica")) == 2, WITHIN_S)
    assert_switched(load, "1", "2", settled_at)
    assert serving.fewest is not None
    assert serving.fewest >= 2


def test_a_deletion_in_the_middle_of_an_update_leaves_nothing(instance: OwnInstance) -> None:
    serve.run(Versioned.bind("1"), name="other", route_prefix="/other")
    serve.run(Versioned.bind("1"))
    with OpenLoad(f"{instance.url}other/") as load:
        for _ in range(2):
            instance.deploy(Versioned.bind("2", constructs_s=0.5))
            load.wait_for(20)
            assert instance.control.delete("default", WITHIN_S)
            assert [view.name for view in instance.control.status().applications] == ["other"]
            assert len(instance.pids("replica")) == 2
    assert_all_served(load, {"1"})


# --- what needs no new replicas ---------------------------------------------------------------------------


def test_only_what_replicas_are_made_of_restarts_them(instance: OwnInstance) -> None:
    first = Versioned.options(user_config="a")
    serve.run(first.bind("1"))
    before = set(instance.replicas("Versioned"))
    with OpenLoad(instance.url) as load:
        serve.run(first.bind("1"))
        load.wait_for(20)
        serve.run(Versioned.options(user_config="b").bind("1"))
        told_at = load.sent
        load.wait_for(50)
        serve.run(Versioned.options(user_config="b", max_queued_requests=17, graceful_shutdown_timeout_s=3).bind("1"))
        load.wait_for(20)
        assert instance.deployment("Versioned").options["max_queued_requests"] == 17
    assert_all_served(load, {"1"})
    assert set(instance.pids("replica")) == set(instance.replicas("Versioned")) == before
    assert {each.body.split(" ")[-1] for each in load.results if each.number >= told_at} == {"b"}
