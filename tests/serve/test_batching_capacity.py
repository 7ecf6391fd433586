"""``max_ongoing_requests`` of deployments that batch: enough to keep them busy, or a warning that it is not."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest

from salver.records import CodeContext, DeploymentSpec
from salver.serve.batching.decorator import batch
from salver.serve.building.graph import build_application
from salver.serve.deployment import Deployment, deployment


class Base:
    @batch(max_batch_size=32)
    async def predict(self, items: list[int]) -> list[int]:
        return items


class Inherits(Base): ...


class Overrides(Base):
    async def predict(self, item: int) -> int:  # type: ignore[override]
        return item


class Small:
    @batch(max_batch_size=2, max_concurrent_batches=2)
    async def __call__(self, items: list[int]) -> list[int]:
        return items


class Both:
    @staticmethod
    @batch(max_batch_size=8)
    async def encode(items: list[int]) -> list[int]:
        return items

    @batch(max_batch_size=8, max_concurrent_batches=2)
    async def decode(self, items: list[int]) -> list[int]:
        return items

    again = decode


def logged(function: Any) -> Any:
    @wraps(function)
    async def call(*args: Any) -> Any:
        return await function(*args)

    return call


class Decorated:
    @logged
    @batch(max_batch_size=7)
    async def predict(self, items: list[int]) -> list[int]:
        return items


@batch(max_batch_size=50)
async def function(items: list[int]) -> list[int]:
    return items


class Weighed:
    @batch(max_batch_size=4096, batch_size_fn=len)
    async def predict(self, items: list[int]) -> list[int]:
        return items


class Plain:
    async def __call__(self) -> None: ...


def spec_of(target: Deployment[Any]) -> DeploymentSpec:
    (spec,) = build_application(target.bind(), name="app", route_prefix="/", code=CodeContext()).deployments
    return spec


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Base, 64),
        (Inherits, 64),
        (Overrides, 5),
        (Small, 4 + 2),
        (Both, 8 + 8 + 16 + 8),
        (Decorated, 14),
        (function, 100),
        (Plain, 5),
    ],
)
def test_unset_it_is_what_fills_the_batches_and_the_next_ones(
    target: Any, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(deployment(target))
    assert (spec.max_ongoing_requests, spec.options["max_ongoing_requests"]) == (expected, expected)
    assert caplog.messages == []


def test_it_is_told_to_running_replicas() -> None:
    before = spec_of(deployment(Base))
    assert spec_of(deployment(Base)).version == before.version
    Base.predict.set_max_batch_size(40)
    try:
        after = spec_of(deployment(Base))
    finally:
        Base.predict.set_max_batch_size(32)
    assert after.max_ongoing_requests == 80
    assert after.version == before.version


def test_other_options_are_kept() -> None:
    spec = spec_of(deployment(Base).options(num_replicas=3, max_queued_requests=7))
    assert (spec.num_replicas, spec.max_queued_requests, spec.max_ongoing_requests) == (3, 7, 64)


def test_too_low_it_is_kept_and_the_deploy_says_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(deployment(Both, max_ongoing_requests=9))
    assert spec.max_ongoing_requests == 9
    (message,) = caplog.messages
    assert message == (
        "Deployment app#Both: max_ongoing_requests=9 is too low for the batches of decode (max_batch_size=8, "
        "max_concurrent_batches=2): a replica never has more than 9 calls for them, unless one request makes "
        "several. Set max_ongoing_requests to at least 16, or leave it out: then Salver chooses it so."
    )


@pytest.mark.parametrize("set_to", [32, 1000])
def test_enough_needs_no_words(set_to: int, caplog: pytest.LogCaptureFixture) -> None:
    assert spec_of(deployment(Base).options(max_ongoing_requests=set_to)).max_ongoing_requests == set_to
    assert caplog.messages == []


def test_the_default_can_be_chosen_against_the_batches(caplog: pytest.LogCaptureFixture) -> None:
    assert spec_of(deployment(Base, max_ongoing_requests=5)).max_ongoing_requests == 5
    assert len(caplog.messages) == 1


def test_weights_tell_nothing_of_numbers(caplog: pytest.LogCaptureFixture) -> None:
    assert spec_of(deployment(Weighed)).max_ongoing_requests == 5
    (message,) = caplog.messages
    assert message == (
        "Deployment app#Weighed: predict weighs its batches with batch_size_fn, so how many calls fill one is not "
        "known. Set max_ongoing_requests (now 5) to at least as many as its batches should hold."
    )
    caplog.clear()
    assert spec_of(deployment(Weighed, max_ongoing_requests=6)).max_ongoing_requests == 6
    assert caplog.messages == []
