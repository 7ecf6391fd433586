"""The JSON Schema of config files, and the models under Ray Serve's names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from salver.serve import schema
from salver.serve.declared.config_schema import config_json_schema
from salver.serve.options import DeploymentOptions
from salver.serve.schema.deploy import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema
from salver.serve.schema.details import DeploymentDetails, ServeInstanceDetails


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
