"""Config files: what is wrong in them and where; what is accepted; nothing but a config or a ConfigFileError."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from salver.serve.config import LoggingConfig
from salver.serve.declared.config_file import ConfigFileError, parse_config, read_config_file
from salver.serve.declared.config_text import MAX_BYTES
from salver.serve.options import RayActorOptions
from salver.serve.schema import ServeApplicationSchema, ServeDeploySchema
from salver.serve.validation import OptionsError

from .bad_configs import APP, BAD, in_app, in_deployment


def refused(text: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        parse_config(text, "f", environment or {})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[f"{number}" for number in range(len(BAD))])
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(text: str, expected: str) -> None:
    problems = refused(text)
    assert "\n".join(problems).startswith(expected)
    assert len(problems) == expected.count("\n") + 1


def test_all_mistakes_are_told_at_once_in_their_order() -> None:
    text = in_deployment("num_replicas: 0\nuser_confg: {}\nray_actor_options: {num_cpus: -1}\nmax_rss: 2026-01-01")
    assert [line.split(": ")[0] for line in refused(text + "http_options: {port: -1}")] == [
        "f:5:19",
        "f:6:5",
        "f:7:35",
        "f:8:14",
        "f:9:22",
    ]


def test_what_is_there_twice_is_told_with_all_else_that_is_wrong() -> None:
    text = """\
applications:
- import_path: a:app
  name: twice
  deployments:
  - {name: D, num_replicas: 0}
  - {name: D, num_replica: 1}
- import_path: app
  name: twice
target_capacity: 101
"""
    assert [line.split(": must")[0] for line in refused(text)] == [
        "f:5:29: applications[0].deployments[0].num_replicas=0",
        "f:6:12: applications[0].deployments[1].name='D'",
        "f:6:15: applications[0].deployments[1].num_replica: there is no such option. Did you mean 'num_replicas'?",
        "f:7:3: applications[1].route_prefix='/'",
        "f:7:16: applications[1].import_path is wrong: import path 'app'",
        "f:8:9: applications[1].name='twice'",
        "f:9:18: target_capacity=101",
    ]


def test_models_in_code_are_compared_like_mappings() -> None:
    schema = ServeApplicationSchema(import_path="a:app")
    with pytest.raises(OptionsError, match=r"applications\[1\]\.name='default': must be different"):
        ServeDeploySchema(applications=[schema, schema])


def test_a_value_that_could_not_be_read_is_one_mistake() -> None:
    (problem,) = refused(in_deployment("num_replicas: 2026-01-01"))
    assert problem.endswith("'2026-01-01' is a timestamp: put it in quotes if a text is meant")


def test_a_gang_policy_that_nobody_has_is_a_mistake() -> None:
    (problem,) = refused(
        in_deployment("gang_scheduling_config: {gang_size: 1, runtime_failure_policy: RESTART_REPLICA}")
    )
    assert "RESTART_REPLICA" in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"a" * (MAX_BYTES + 1), f"has more than {MAX_BYTES} bytes"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigFileError) as caught:
        read_config_file(path)
    assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(ConfigFileError, match="Is a directory"):
        read_config_file(tmp_path)


def test_bytes_that_are_no_text_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(ConfigFileError, match=r"c\.yaml:2:4: is not UTF-8"):
        read_config_file(path)


BY_RAY = """\
# This file was generated using the `serve build` command on Ray v2.60.0.

proxy_location: EveryNode

http_options:

  host: 0.0.0.0

  port: 8000

grpc_options:

  port: 9000

  grpc_servicer_functions: []

logging_config:

  encoding: TEXT
  log_level: INFO
  logs_dir: null
  enable_access_log: true
  additional_log_standard_attrs: []

controller_options: null
tracing_config: null
target_capacity: null

applications:

- name: app1

  route_prefix: /

  import_path: text_ml:app

  runtime_env: {}

  host: 0.0.0.0

  autoscaling_policy: null

  external_scaler_enabled: false

  deployments:

  - name: Translator

    num_replicas: 1

    user_config:
      1: one
      language: french

    ray_actor_options:
      runtime_env: {}
      num_cpus: null
      resources: {}

  - name: Summarizer

    autoscaling_config: {min_replicas: 0, max_replicas: 3}
    health_check_period_s: 10.0
    rolling_update_percentage: 0.2
"""


def test_a_file_that_ray_serve_wrote_is_accepted_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BY_RAY)
    file = read_config_file(path)
    (application,) = file.schema.applications
    translator, summarizer = application.deployments
    overrides = translator.overrides()
    assert set(overrides) == {"num_replicas", "user_config", "ray_actor_options"}
    assert overrides["user_config"] == {"1": "one", "language": "french"}
    assert "num_cpus" not in RayActorOptions.model_validate(overrides["ray_actor_options"]).model_fields_set
    assert summarizer.target_num_replicas == 0
    assert file.schema.logging_config == LoggingConfig()
    assert file.warnings == (f"{path}:39:9: applications[0].host: has no effect; set it under http_options",)


def test_the_default_of_host_is_this_machine_alone() -> None:
    file = parse_config(APP + "http_options: {port: 1}", "f")
    assert file.schema.http_options.host == "127.0.0.1"


def test_what_has_no_effect_is_told() -> None:
    text = APP + "proxy_location: Disabled\ngrpc_options: {port: 1}\ncontroller_options: {}\n"
    assert [line.partition(": ")[2] for line in parse_config(text, "f").warnings] == [
        'proxy_location="Disabled": is accepted but has no effect in this version; it is "EveryNode"',
        "grpc_options: is accepted but has no effect in this version",
        "controller_options: is accepted but has no effect in this version",
    ]


def test_arguments_keep_their_types() -> None:
    file = parse_config(in_app("args: {a: 1, b: 1.5, c: 'x', d: [true, null], e: 0x10, 7: {x: y}}"), "f")
    expected = {"a": 1, "b": 1.5, "c": "x", "d": [True, None], "e": 16, "7": {"x": "y"}}
    assert file.schema.applications[0].args == file.config["applications"][0]["args"] == expected


def test_aliases_and_merged_mappings() -> None:
    text = dedent("""
        applications:
        - name: a
          import_path: a:app
          args: &base {x: 1, y: 2}
        - name: b
          route_prefix: /b
          import_path: a:app
          args: {<<: [*base, {z: 3, x: 9}], y: 5}
        - name: c
          route_prefix: /c
          import_path: a:app
          args: *base
    """)
    args = [application.args for application in parse_config(text, "f").schema.applications]
    assert args == [{"x": 1, "y": 2}, {"x": 1, "y": 5, "z": 3}, {"x": 1, "y": 2}]


def test_mappings_that_merge_each_other_do_not_grow_without_end() -> None:
    names = [f"m{number}" for number in range(45)]
    lines = ["m0: &m0 {k: 1}"]
    lines += [f"{new}: &{new} {{<<: [*{old}, *{old}]}}" for old, new in pairwise(names)]
    (problem,) = refused("\n".join(lines))
    assert "once aliases are expanded" in problem


def test_variables_are_replaced_in_env_vars_and_nowhere_else() -> None:
    text = in_app("args: {x: '${HOME}'}\nruntime_env: {env_vars: {A: '${B}/${B}', C: '$B ${}'}, working_dir: '${B}'}")
    file = parse_config(text, "f", {"B": "v"})
    (application,) = file.config["applications"]
    assert application["runtime_env"] == {"env_vars": {"A": "v/v", "C": "$B ${}"}, "working_dir": "${B}"}
    assert application["args"] == {"x": "${HOME}"}
    (problem,) = refused(in_app("runtime_env: {env_vars: {A: '${NOT}'}}"))
    assert problem == "f:3:31: applications[0].runtime_env.env_vars.A: there is no environment variable 'NOT'"


# --- whatever it is -----------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *("applications", "name", "import_path", "deployments", "num_replicas", "autoscaling_config", "runtime_env"),
        *("args", "ray_actor_options", "http_options", "logging_config", "user_config", "env_vars", "policy"),
        *("self", "values"),
    ]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=3)
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=5)
)
DEPLOYMENTS = st.lists(
    st.dictionaries(KEYS | st.sampled_from(list(RayActorOptions.model_fields)), VALUES, max_size=5)
)
APPLICATIONS = st.fixed_dictionaries({"import_path": st.just("a:b"), "deployments": DEPLOYMENTS | VALUES})
FILES = st.dictionaries(KEYS, VALUES) | st.fixed_dictionaries({"applications": st.lists(APPLICATIONS, max_size=2)})


def read(text: str) -> None:
    """Any other exception than a ConfigFileError is this test's failure."""
    try:
        file = parse_config(text, "f", {})
    except ConfigFileError as error:
        problems = error.problems
    else:
        json.dumps(file.config, allow_nan=False)
        return
    assert problems
    assert all(line.startswith("f:") for line in problems)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FILES)
def test_any_values_give_a_config_or_a_config_file_error(value: Any) -> None:
    read(yaml.dump(value))


@settings(max_examples=300, deadline=None)
@given(
    st.text() | st.text(alphabet="{}[]:,-&*!|>'\"%@`#?<=~ \n\tax1.") | st.binary().map(lambda b: b.decode("latin-1"))
)
@example("=")
@example("<<: {<<: {a: 1}}")
@example("? [a]\n: b")
@example("a: !!int x")
@example("a: !!float")
@example("a: 1:99:99")
@example("a: 0b")
@example("\ud800")
@example('"\\ud800": 1')
@example("%YAML 9.9\n---\na: 1")
@example("a: " + "9" * 5000)
def test_any_text_gives_a_config_or_a_config_file_error(text: str) -> None:
    read(text)
