"""What options, settings and overrides become in the records that the controller gets; several targets at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from salver import serve
from salver.errors import ConfigurationError
from salver.records import CodeContext, DeploymentSpec, LoggingSpec, Resources
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.graph import build_application
from salver.serve.building.logging_spec import logging_spec
from salver.serve.config import AutoscalingPolicy, LoggingConfig
from salver.serve.deployment import deployment
from salver.serve.validation import OptionsError


class Model:
    def __init__(self, *others: Any) -> None: ...

    def reconfigure(self, config: object) -> None: ...

    def __call__(self) -> str:
        return "here"


def scale(_context: object) -> tuple[int, dict[str, Any]]:
    return 1, {}


Plain = deployment(name="Plain")(Model)


def spec(settings: ApplicationSettings | None = None, **options: Any) -> DeploymentSpec:
    target = Plain.options(**options).bind()
    built = build_application(target, name="a", route_prefix="/", code=CodeContext(cwd="/x"), settings=settings)
    return built.deployments[0]


def test_every_option_of_the_control_plane_is_in_the_record() -> None:
    one = spec(
        ray_actor_options={"num_cpus": 2, "num_gpus": 0.5, "memory": 7, "resources": {"npu": 1}},
        max_replicas_per_node=3,
        rolling_update_percentage=0.5,
        max_surge_percent=40,
        health_check_period_s=1,
        health_check_timeout_s=2,
        hang_timeout_s=3,
        cancel_grace_s=4,
        max_rss="1 KiB",
        max_requests=9,
        logging_config={"log_level": "debug", "enable_access_log": False},
    )
    assert one.resources == Resources(2, 0.5, 7, {"npu": 1})
    assert (one.max_replicas_per_node, one.rolling_update_fraction, one.max_surge_percent) == (3, 0.5, 40)
    assert (one.health_check_period_s, one.health_check_timeout_s) == (1, 2)
    assert (one.hang_timeout_s, one.cancel_grace_s, one.max_rss_bytes, one.max_requests) == (3, 4, 1024, 9)
    assert one.logging == LoggingSpec(log_level=10, enable_access_log=False)
    assert (one.autoscaling, one.code) == (None, None)


@pytest.mark.parametrize(
    ("options", "replicas", "failures"),
    [
        ({"num_replicas": 2}, 2, 6),
        ({"num_replicas": 9}, 9, 20),
        ({"num_replicas": "auto"}, 1, 3),
        ({"autoscaling_config": {"min_replicas": 0, "max_replicas": 3}}, 0, 3),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 3}}, 2, 6),
        ({"autoscaling_config": {"min_replicas": 0, "initial_replicas": 3, "max_replicas": 3}}, 3, 9),
        ({"num_replicas": 2, "max_constructor_retry_count": 4}, 2, 4),
    ],
)
def test_replicas_at_first_and_how_often_they_may_fail(options: dict[str, Any], replicas: int, failures: int) -> None:
    one = spec(**options)
    assert (one.num_replicas, one.max_constructor_failures) == (replicas, failures)
    assert (one.autoscaling is None) == isinstance(options.get("num_replicas"), int)


def test_auto_goes_from_one_to_a_hundred_below_what_is_set() -> None:
    scaling = spec(num_replicas="auto", autoscaling_config={"min_replicas": 4}).autoscaling
    assert scaling is not None
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (4, 100, 2)


def test_logging_of_the_application_is_below_that_of_the_deployment() -> None:
    settings = ApplicationSettings(logging_config=LoggingConfig(encoding="JSON"))
    assert spec(settings).logging == LoggingSpec(encoding="JSON")
    assert spec(settings, logging_config={"encoding": "TEXT"}).logging == LoggingSpec(encoding="TEXT")
    assert spec().logging is None


@pytest.mark.parametrize(("level", "number"), [("INFO", 20), ("warning", 30), (15, 15)])
def test_logging_spec(level: str | int, number: int) -> None:
    config = LoggingConfig(log_level=level, logs_dir="/logs", additional_log_standard_attrs=["process"])
    assert logging_spec(config) == LoggingSpec("", number, "/logs", True, ("process",))
    assert logging_spec(None) is None
    assert logging.getLevelName(number)


def test_overrides_win_each_by_itself() -> None:
    settings = ApplicationSettings(overrides={"Plain": {"num_replicas": 3, "user_config": {"a": 1}}})
    one = spec(settings, num_replicas=2, max_queued_requests=5)
    assert (one.num_replicas, one.user_config, one.max_queued_requests) == (3, {"a": 1}, 5)
    assert one.version == spec(num_replicas=2).version
    scaled = spec(
        ApplicationSettings(overrides={"Plain": {"autoscaling_config": {"max_replicas": 3}}}), num_replicas=2
    )
    assert (scaled.num_replicas, scaled.autoscaling is not None) == (1, True)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        (
            ApplicationSettings(overrides={"Plan": {"num_replicas": 3}}),
            {},
            "deployment 'Plan': the application has none of that name; it has Plain. Did you mean 'Plain'?",
        ),
        (
            ApplicationSettings(overrides={"Plain": {"num_replicas": 0}}),
            {},
            "deployment 'Plain': num_replicas=0: must be an integer of at least 1, or \"auto\"",
        ),
        (
            ApplicationSettings(external_scaler_enabled=True),
            {"num_replicas": "auto"},
            "deployment a#Plain: autoscaling_config cannot be set together with external_scaler_enabled",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: ApplicationSettings, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        spec(settings, **options)
    assert str(caught.value).startswith(message)


def test_what_the_application_has_of_its_settings() -> None:
    policy = AutoscalingPolicy(policy_function=scale)
    settings = ApplicationSettings(autoscaling_policy=policy, config={"name": "a"})
    target = Plain.options(num_replicas="auto").bind()
    built = build_application(target, name="a", route_prefix="/", code=CodeContext(), settings=settings)
    assert built.config == {"name": "a"}
    assert built.policy is not None
    assert built.policy.name.endswith(":scale")
    assert built.deployments[0].autoscaling is not None
    assert built.deployments[0].autoscaling.wants_stats


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    serve.shutdown()


@pytest.mark.usefixtures("ended")
def test_several_applications_at_once() -> None:
    targets = [
        serve.RunTarget(Plain.bind(), "one", "/one", external_scaler_enabled=True),
        serve.RunTarget(Plain.options(num_replicas=2).bind(), "two", None, logging_config={"log_level": "DEBUG"}),
    ]
    one, two = serve.run_many(targets, local=True)
    assert (one.remote().result(timeout_s=30), two.remote().result(timeout_s=30)) == ("here", "here")
    status = serve.status()
    assert {name: each.route_prefix for name, each in status.applications.items()} == {"one": "/one", "two": None}
    assert status.applications["one"].external_scaler_enabled
    assert status.target_capacity is None
    asyncio.run(serve.shutdown_async())
    asyncio.run(serve.shutdown_async())


@pytest.mark.usefixtures("ended")
def test_what_cannot_be_built_deploys_nothing() -> None:
    with pytest.raises(ConfigurationError, match="two applications are named 'default'"):
        serve.run_many([serve.RunTarget(Plain.bind()), serve.RunTarget(Plain.bind())], local=True)
    with pytest.raises(OptionsError, match=r"logging_config\.encoding='XML'"):
        serve.run(Plain.bind(), logging_config={"encoding": "XML"}, local=True)
