"""The JSON Schema of config files, and the models under Ray Serve's names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from salver.serve import schema
from salver.serve.declared.config_file import validate_config
from salver.serve.declared.config_schema import config_json_schema
from salver.serve.options import DeploymentOptions
from salver.serve.schema.deploy import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema
from salver.serve.schema.details import DeploymentDetails, ServeInstanceDetails
from salver.serve.validation import OptionsError


def test_it_is_of_the_whole_file_and_says_what_it_is() -> None:
    whole = config_json_schema()
    assert whole["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert whole["$id"].startswith("urn:")
    assert set(whole["properties"]) == set(ServeDeploySchema.model_fields)
    assert whole["required"] == ["applications"]
    assert whole["additionalProperties"] is False


def test_options_have_their_meaning_and_no_default_that_a_file_does_not_have() -> None:
    deployment = config_json_schema()["$defs"]["DeploymentSchema"]
    assert set(deployment["properties"]) == set(DeploymentOptions.model_fields)
    assert deployment["required"] == ["name"]
    for name, option in deployment["properties"].items():
        assert "default" not in option
        assert "$ref" in option or option["description"], name


RUNTIME_ENVS: list[tuple[Any, bool]] = [
    (None, True),
    ({}, True),
    ([], False),
    ("env", False),
    ({"env_vars": {"A": "1", "B_C": ""}}, True),
    ({"env_vars": {}}, True),
    ({"env_vars": None, "working_dir": None, "py_modules": None, "pip": None, "excludes": None}, True),
    ({"env_vars": ["A=1"]}, False),
    ({"env_vars": {"A": 1}}, False),
    ({"env_vars": {"A": None}}, False),
    ({"env_vars": {"A": "x\0y"}}, False),
    ({"env_vars": {"A=B": "x"}}, False),
    ({"env_vars": {"": "x"}}, False),
    ({"working_dir": "."}, True),
    ({"working_dir": "code.zip"}, True),
    ({"working_dir": ""}, False),
    ({"working_dir": 5}, False),
    ({"working_dir": "s3://bucket/code.zip"}, False),
    ({"working_dir": "a\nhttp://b"}, False),
    ({"py_modules": []}, True),
    ({"py_modules": ["a", "b.whl"]}, True),
    ({"py_modules": "a"}, False),
    ({"py_modules": ["a", 1]}, False),
    ({"py_modules": ["https://b/c.whl"]}, False),
    ({"pip": []}, True),
    ({"pip": ["numpy", "torch>=2"]}, True),
    ({"pip": "requirements.txt"}, True),
    ({"pip": ""}, False),
    ({"pip": "http://host/requirements.txt"}, False),
    ({"pip": 5}, False),
    ({"pip": ["numpy", ""]}, False),
    ({"pip": [" "]}, False),
    ({"pip": ["numpy\ntorch"]}, False),
    ({"pip": [None]}, False),
    ({"pip": {"packages": ["numpy"]}}, True),
    ({"pip": {"packages": "requirements.txt", "pip_check": True, "pip_install_options": ["--no-deps"]}}, True),
    ({"pip": {"packages": []}}, True),
    ({"pip": {}}, False),
    ({"pip": {"packages": None}}, False),
    ({"pip": {"packages": ["numpy"], "pip_check": "yes"}}, False),
    ({"pip": {"packages": ["numpy"], "pip_check": None}}, False),
    ({"pip": {"packages": ["numpy"], "pip_install_options": "--no-deps"}}, False),
    ({"pip": {"packages": ["numpy"], "pip_install_options": None}}, False),
    ({"pip": {"packages": ["numpy"], "pip_version": "==24"}}, False),
    ({"pip": {"packages": ["numpy"], "pip_chek": True}}, False),
    ({"excludes": ["*.bin"]}, True),
    ({"excludes": "*.bin"}, False),
    ({"excludes": [""]}, False),
    ({"work_dir": "."}, False),
    ({"conda": "env.yml"}, False),
    ({"uv": ["numpy"]}, False),
]


@pytest.mark.parametrize("of_deployment", [False, True], ids=["application", "deployment"])
def test_it_marks_what_a_deploy_refuses_in_a_runtime_env_and_nothing_else(of_deployment: bool) -> None:
    jsonschema_rs: Any = pytest.importorskip("jsonschema_rs")
    marks = jsonschema_rs.validator_for(config_json_schema())
    for env, is_right in RUNTIME_ENVS:
        application: dict[str, Any] = {"import_path": "a:b", "runtime_env": env}
        if of_deployment:
            options = {"runtime_env": env}
            application = {"import_path": "a:b", "deployments": [{"name": "D", "ray_actor_options": options}]}
        config = {"applications": [application]}
        assert (marks.is_valid(config), is_accepted(config)) == (is_right, is_right), env


def is_accepted(config: dict[str, Any]) -> bool:
    try:
        validate_config(config)
    except OptionsError:
        return False
    return True


def test_every_reference_leads_somewhere() -> None:
    whole = config_json_schema()

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [each for inner in value.values() for each in references(inner)]
        return [each for inner in value for each in references(inner)] if isinstance(value, list) else []

    found = references(whole)
    assert found
    assert all(each.removeprefix("#/$defs/") in whole["$defs"] for each in found)


@pytest.mark.parametrize("name", schema.__all__)
def test_names_of_the_package(name: str) -> None:
    assert getattr(schema, name).__name__.startswith(name.removesuffix("Schema"))
    assert name in dir(schema)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = schema.Nothing


def test_replicas_and_proxies_do_not_carry_the_models_of_files() -> None:
    program = "import sys, salver.serve.api, salver.data.replica.replica, salver.controller.declarations\n"
    program += (
        "print([each for each in sys.modules if each == 'yaml' or 'serve.schema.' in each or 'config_' in each])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "[]\n"


def test_the_controllers_part_carries_no_models_at_all() -> None:
    program = "import sys, salver.controller.declarations; print('pydantic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "False\n"


def test_fields_are_those_that_rays_clients_read() -> None:
    assert set(ServeApplicationSchema.model_fields) == {
        *("name", "route_prefix", "import_path", "runtime_env", "host", "port", "deployments", "autoscaling_policy"),
        *("args", "logging_config", "external_scaler_enabled"),
    }
    assert set(DeploymentSchema.model_fields) == set(DeploymentOptions.model_fields)
    details = ServeInstanceDetails.model_validate(
        {
            "controller_info": {"node_ip": "127.0.0.1"},
            "applications": {
                "a": {
                    "name": "a",
                    "status": "RUNNING",
                    "message": "",
                    "last_deployed_time_s": 1.0,
                    "deployments": {},
                    "source": "declarative",
                    "of_a_later_version": 1,
                }
            },
        }
    )
    assert details.applications["a"].source == "declarative"
    required = {name for name, field in DeploymentDetails.model_fields.items() if field.is_required()}
    assert required >= {"name", "status", "status_trigger", "message", "deployment_config", "target_num_replicas"}
