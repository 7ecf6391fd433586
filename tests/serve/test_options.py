"""The options of a deployment: what is refused and how, what merges, what warns, what is documented."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.serve import option_effects
from salver.serve.config import AutoscalingConfig, BackpressureConfig
from salver.serve.deployment import deployment
from salver.serve.option_effects import OPTIONS_WITHOUT_EFFECT, UPDATE_CLASSES, UpdateClass
from salver.serve.options import DeploymentKwargs, DeploymentOptions, RayActorOptions
from salver.serve.validation import Allowed, OptionsError

DOCS = Path(__file__).parents[2] / "docs" / "options.md"


class Model:
    pass


def test_defaults() -> None:
    options = DeploymentOptions()
    assert options.model_fields_set == set()
    assert options.model_dump(exclude={"request_router_config"}) == {
        "name": None,
        "num_replicas": 1,
        "ray_actor_options": RayActorOptions().model_dump(),
        "placement_group_bundles": None,
        "placement_group_strategy": "PACK",
        "placement_group_bundle_label_selector": None,
        "max_replicas_per_node": None,
        "user_config": None,
        "max_ongoing_requests": 5,
        "max_queued_requests": -1,
        "backpressure_config": {"status_code": 503, "retry_after_s": None},
        "autoscaling_config": None,
        "graceful_shutdown_wait_loop_s": 2,
        "graceful_shutdown_timeout_s": 20,
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "logging_config": None,
        "max_constructor_retry_count": 20,
        "gang_scheduling_config": None,
        "deployment_actors": None,
        "rolling_update_percentage": 0.2,
        "max_surge_percent": 0,
        "startup_timeout_s": 600,
        "idempotent": False,
        "hang_timeout_s": 30,
        "cancel_grace_s": 5,
        "max_rss": None,
        "max_requests": None,
    }


ACTOR = {"name": "a", "actor_class": "module:Actor"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name='': must be a non-empty string without '#'"),
    ({"name": "a#b"}, "name='a#b': must not contain '#'"),
    ({"num_replicas": 0}, 'num_replicas=0: must be an integer of at least 1, or "auto"'),
    ({"num_replicas": 1.5}, 'num_replicas=1.5: must be an integer of at least 1, or "auto"'),
    ({"num_replicas": "many"}, "num_replicas='many': must be an integer of at least 1, or \"auto\""),
    (
        {"num_replicas": 2, "autoscaling_config": {}},
        'num_replicas=2: cannot be set together with autoscaling_config; leave it out, or set it to "auto"',
    ),
    (
        {"ray_actor_options": 5},
        "ray_actor_options=5: must be a valid dictionary or instance of RayActorOptions",
    ),
    (
        {"ray_actor_options": {"num_cpu": 1}},
        "ray_actor_options.num_cpu: there is no such option. Did you mean 'num_cpus'?",
    ),
    (
        {"ray_actor_options": {"num_cpus": -0.5}},
        "ray_actor_options.num_cpus=-0.5: must be a number of at least 0",
    ),
    (
        {"ray_actor_options": {"num_gpus": "1"}},
        "ray_actor_options.num_gpus='1': must be a number of at least 0, or None",
    ),
    (
        {"ray_actor_options": {"resources": {"tpu": -1}}},
        "ray_actor_options.resources={'tpu': -1}: must be a dict of names to numbers of at least 0",
    ),
    (
        {"ray_actor_options": {"resources": {"GPU": 1}}},
        "ray_actor_options.resources must not contain 'GPU': use 'num_gpus'",
    ),
    (
        {"ray_actor_options": {"memory": -1}},
        "ray_actor_options.memory=-1: must be a number of bytes of at least 0, or None",
    ),
    (
        {"placement_group_bundles": []},
        "placement_group_bundles=[]: must be a non-empty list of dicts of resource names to numbers, or None",
    ),
    (
        {"placement_group_strategy": "NEAR"},
        'placement_group_strategy=\'NEAR\': must be "PACK", "SPREAD", "STRICT_PACK" or "STRICT_SPREAD"',
    ),
    (
        {"placement_group_bundle_label_selector": [{}]},
        "placement_group_bundle_label_selector: needs placement_group_bundles",
    ),
    ({"max_replicas_per_node": 101}, "max_replicas_per_node=101: must be an integer from 1 to 100, or None"),
    (
        {"max_replicas_per_node": 1, "placement_group_bundles": [{"CPU": 1}]},
        "max_replicas_per_node=1: cannot be set together with placement_group_bundles",
    ),
    (
        {"max_replicas_per_node": 1, "gang_scheduling_config": {"gang_size": 1}},
        "max_replicas_per_node=1: cannot be set together with gang_scheduling_config",
    ),
    (
        {"user_config": {"x": {1}}},
        "user_config is not JSON-serializable: Object of type set is not JSON serializable",
    ),
    ({"max_ongoing_requests": 0}, "max_ongoing_requests=0: must be an integer of at least 1"),
    ({"max_ongoing_requests": None}, "max_ongoing_requests=None: must be an integer of at least 1"),
    ({"max_ongoing_requests": True}, "max_ongoing_requests=True: must be an integer of at least 1"),
    ({"max_queued_requests": 0}, "max_queued_requests=0: must be an integer of at least 1, or -1 (no limit)"),
    (
        {"max_queued_requests": -2},
        "max_queued_requests=-2: must be an integer of at least 1, or -1 (no limit)",
    ),
    (
        {"backpressure_config": {"status_code": 500}},
        "backpressure_config.status_code=500: must be 503 or 429",
    ),
    (
        {"autoscaling_config": {"max_replica": 5}},
        "autoscaling_config.max_replica: there is no such option. Did you mean 'max_replicas'?",
    ),
    (
        {"graceful_shutdown_wait_loop_s": -1},
        "graceful_shutdown_wait_loop_s=-1: must be a number of at least 0",
    ),
    ({"graceful_shutdown_timeout_s": -1}, "graceful_shutdown_timeout_s=-1: must be a number of at least 0"),
    ({"health_check_period_s": 0}, "health_check_period_s=0: must be a number above 0"),
    ({"health_check_timeout_s": "1"}, "health_check_timeout_s='1': must be a number above 0"),
    (
        {"logging_config": {"log_level": "loud"}},
        "logging_config.log_level='loud': must be a level of logging, like \"INFO\" or 20",
    ),
    (
        {"request_router_config": {"max_backoff_s": 0}},
        "request_router_config.max_backoff_s=0: must be a number above 0",
    ),
    ({"max_constructor_retry_count": 0}, "max_constructor_retry_count=0: must be an integer of at least 1"),
    (
        {"num_replicas": 3, "gang_scheduling_config": {"gang_size": 2}},
        "num_replicas=3: must be a multiple of gang_scheduling_config.gang_size=2",
    ),
    ({"deployment_actors": [ACTOR, ACTOR]}, "deployment_actors must have different names: a, a"),
    (
        {"deployment_actors": [{**ACTOR, "name": ""}]},
        "deployment_actors[0].name='': must be a non-empty string",
    ),
    ({"rolling_update_percentage": 0}, "rolling_update_percentage=0: must be a number above 0, up to 1"),
    ({"max_surge_percent": 101}, "max_surge_percent=101: must be a number from 0 to 100"),
    ({"startup_timeout_s": 0}, "startup_timeout_s=0: must be a number above 0"),
    ({"idempotent": "yes"}, "idempotent='yes': must be True or False"),
    ({"hang_timeout_s": 0}, "hang_timeout_s=0: must be a number above 0"),
    ({"cancel_grace_s": -1}, "cancel_grace_s=-1: must be a number of at least 0"),
    (
        {"max_rss": "2 QiB"},
        "max_rss='2 QiB': must be a number of bytes of at least 1, a text like \"2 GiB\", or None",
    ),
    ({"max_rss": 0}, 'max_rss=0: must be a number of bytes of at least 1, a text like "2 GiB", or None'),
    ({"max_requests": 0}, "max_requests=0: must be an integer of at least 1, or None"),
    (
        {
            "num_replicas": "auto",
            "autoscaling_config": {"min_replicas": 101, "max_replicas": 102, "initial_replicas": 1},
        },
        "autoscaling_config.initial_replicas=1: must be between min_replicas=101 and max_replicas=102",
    ),
    (
        {"version": "1"},
        "version: cannot be set; it follows from the deployment's code, arguments and options",
    ),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError) as caught:
        deployment(**values)(Model)
    assert str(caught.value) == message
    with pytest.raises(OptionsError) as caught:
        deployment(Model).options(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_ongoing_request", "Did you mean 'max_ongoing_requests'?"),
        ("num_replica", "Did you mean 'num_replicas'?"),
        ("route_prefix", "Pass it to serve.run()."),
        ("max_concurrent_queries", "Its name is 'max_ongoing_requests'."),
    ],
)
def test_unknown_names_are_type_errors_with_advice(name: str, advice: str) -> None:
    with pytest.raises(TypeError) as caught:
        deployment(**{name: 1})  # type: ignore[call-overload]
    assert str(caught.value) == f"serve.deployment() got an unexpected option {name!r}. {advice}"
    with pytest.raises(TypeError) as caught:
        deployment(Model).options(**{name: 1})  # type: ignore[call-overload]
    assert str(caught.value) == f"Deployment.options() got an unexpected option {name!r}. {advice}"


def test_an_unknown_name_is_refused_by_the_model_as_well() -> None:
    with pytest.raises(OptionsError, match=r"there is no such option\. Did you mean 'user_config'\?"):
        DeploymentOptions(user_confg={})  # type: ignore[call-arg]


def test_none_means_not_given_where_it_means_nothing_else() -> None:
    options = DeploymentOptions(
        name=None,
        num_replicas=None,  # type: ignore[arg-type]
        ray_actor_options=None,  # type: ignore[arg-type]
        backpressure_config=None,  # type: ignore[arg-type]
        request_router_config=None,  # type: ignore[arg-type]
    )
    assert options == DeploymentOptions()
    assert options.changed({"num_replicas": 3}).changed({"num_replicas": None}).num_replicas == 3


def test_numpy_scalars_are_numbers() -> None:
    options = DeploymentOptions(
        num_replicas=np.int64(2),  # type: ignore[arg-type]
        ray_actor_options={"num_cpus": np.float32(0.5), "resources": {"x": np.float64(1)}},  # type: ignore[arg-type]
        user_config={"threshold": np.float32(0.5), "sizes": [np.int32(1)]},
    )
    assert options.num_replicas == 2
    assert options.ray_actor_options.num_cpus == 0.5
    assert options.user_config == {"threshold": 0.5, "sizes": [1]}
    assert options.model_dump(mode="json")["ray_actor_options"]["resources"] == {"x": 1.0}


def test_user_config_is_copied() -> None:
    config = {"models": ["a"]}
    options = DeploymentOptions(user_config=config)
    config["models"].append("b")
    assert options.user_config == {"models": ["a"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"num_replicas": 4}, 4),
        ({"num_replicas": "auto"}, 1),
        ({"autoscaling_config": {"max_replicas": 9}}, 1),
        ({"num_replicas": "auto", "autoscaling_config": {"max_replicas": 9}}, 1),
    ],
)
def test_target_num_replicas(options: dict[str, Any], expected: int) -> None:
    assert DeploymentOptions(**options).target_num_replicas == expected


def test_a_fixed_number_and_autoscaling_replace_each_other() -> None:
    fixed = DeploymentOptions(num_replicas=2, max_ongoing_requests=7)
    scaled = fixed.changed({"autoscaling_config": {"max_replicas": 4}})
    assert scaled.autoscaling_config == AutoscalingConfig(max_replicas=4)
    assert "num_replicas" not in scaled.model_fields_set
    fixed_again = scaled.changed({"num_replicas": 3})
    assert fixed_again.autoscaling_config is None
    assert fixed_again.max_ongoing_requests == 7
    assert scaled.changed({"num_replicas": "auto"}).autoscaling_config == AutoscalingConfig(max_replicas=4)


def test_changes_add_to_what_was_set() -> None:
    options = DeploymentOptions(max_queued_requests=3).changed({"backpressure_config": {"status_code": 429}})
    assert options.model_fields_set == {"max_queued_requests", "backpressure_config"}
    assert options.backpressure_config == BackpressureConfig(status_code=429)


@pytest.fixture
def nothing_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(option_effects, "_warned", set[str]())


WITHOUT_EFFECT: dict[str, Any] = {
    "placement_group_bundles": [{"CPU": 1}],
    "placement_group_strategy": "SPREAD",
    "graceful_shutdown_wait_loop_s": 1,
    "request_router_config": {"max_backoff_s": 1},
    "gang_scheduling_config": {"gang_size": 1},
    "deployment_actors": [ACTOR],
}


@pytest.mark.usefixtures("nothing_warned_yet")
@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_an_option_without_effect_warns_once_at_the_users_line(name: str) -> None:
    options: Any = {name: WITHOUT_EFFECT[name]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deployment(**options)(Model)
        deployment(Model).options(**options)
    (warning,) = caught
    assert warning.category is UserWarning
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"option '{name}' of deployment 'Model' is accepted but has no effect in this version of Salver; "
        "see docs/options.md"
    )


@pytest.mark.usefixtures("nothing_warned_yet")
def test_part_of_an_option_without_effect_warns() -> None:
    with pytest.warns(
        UserWarning, match=re.escape("option 'ray_actor_options.label_selector' of deployment 'Model'")
    ):
        deployment(ray_actor_options={"label_selector": {"a": "b"}})(Model)


@pytest.mark.usefixtures("nothing_warned_yet")
def test_options_with_effect_and_defaults_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = deployment(
            name="m",
            num_replicas=2,
            ray_actor_options={"num_gpus": 0},
            max_ongoing_requests=9,
            max_queued_requests=9,
            graceful_shutdown_timeout_s=1,
            max_constructor_retry_count=1,
            startup_timeout_s=1,
            health_check_period_s=10,
            backpressure_config={},
        )(Model)
    assert made.num_replicas == 2


def test_the_lists_of_options_agree() -> None:
    fields = set(DeploymentOptions.model_fields)
    assert set(DeploymentKwargs.__annotations__) == fields
    assert set(UPDATE_CLASSES) == fields - {"name"}
    untried = {"placement_group_bundle_label_selector"}  # needs another option, which would warn as well
    assert set(WITHOUT_EFFECT) == OPTIONS_WITHOUT_EFFECT - untried


@pytest.mark.parametrize("name", DeploymentOptions.model_fields)
def test_every_option_is_documented(name: str) -> None:
    deployments, _, _ = DOCS.read_text().partition("## RayActorOptions")
    rows = [line for line in deployments.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    _, default, allowed, effect, meaning = (cell.strip() for cell in rows[0].strip("|").split(" | "))
    field = DeploymentOptions.model_fields[name]
    phrases = [part.phrase for part in field.metadata if isinstance(part, Allowed)]
    assert default == f"`{field.default!r}`".replace("'", '"') or default.endswith("()`")
    assert allowed in phrases or (not phrases and allowed)
    assert effect.startswith("later" if name in OPTIONS_WITHOUT_EFFECT else "now")
    assert meaning


def test_what_a_change_replaces_is_documented() -> None:
    _, _, section = DOCS.read_text().partition("### What a change replaces")
    section, _, _ = section.partition("\n## ")
    (heavy,) = [line for line in section.splitlines() if line.startswith("- these options: ")]
    (told,) = [line for line in section.splitlines() if line.startswith("Running replicas are told of a change of ")]
    for line, update in ((heavy, UpdateClass.HEAVY), (told, UpdateClass.RECONFIGURE)):
        assert re.findall(r"`(\w+)`", line) == [name for name, each in UPDATE_CLASSES.items() if each is update]


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("7 B", 7), ("2 GiB", 2 << 30), ("1.5k", 1536), ("3 kB", 3000), (" 1 MB ", 10**6), ("1T", 1 << 40)],
)
def test_memory_as_a_text(text: str, size: int) -> None:
    assert DeploymentOptions(max_rss=text).max_rss == size  # type: ignore[arg-type]


def test_auto_is_the_default_below_what_is_set() -> None:
    scaling = DeploymentOptions(num_replicas="auto", autoscaling_config={"max_replicas": 9}).scaling  # type: ignore[arg-type]
    assert scaling == AutoscalingConfig(min_replicas=1, max_replicas=9, target_ongoing_requests=2)
    assert DeploymentOptions(num_replicas="auto").scaling == AutoscalingConfig.default()
    assert DeploymentOptions(num_replicas=2).scaling is None
    assert DeploymentOptions(autoscaling_config={"min_replicas": 0}).target_num_replicas == 0  # type: ignore[arg-type]
