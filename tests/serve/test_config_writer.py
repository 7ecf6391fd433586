"""What ``salver build`` writes is what the reader accepts, and means the same."""

from __future__ import annotations

from typing import Any

import yaml

from salver.serve.autoscaling_policy import default_autoscaling_policy
from salver.serve.config import AutoscalingConfig, AutoscalingPolicy
from salver.serve.declared.config_file import parse_config
from salver.serve.declared.config_writer import config_of
from salver.serve.deployment import deployment


class Model:
    def __init__(self, *others: Any) -> None: ...

    def reconfigure(self, config: object) -> None: ...


Leaf = deployment(name="Leaf", max_ongoing_requests=7, user_config={"größe": [1, None]})(Model)
Root = deployment(
    name="Root",
    ray_actor_options={"num_gpus": 0.5},
    autoscaling_config=AutoscalingConfig(
        min_replicas=0, max_replicas=3, policy=AutoscalingPolicy(policy_function=default_autoscaling_policy)
    ),
    max_rss="2 GiB",
)(Model)


def test_one_application() -> None:
    text = config_of([("module:app", Root.bind(Leaf.bind(), Leaf.bind()))])
    assert text.startswith("# ")
    file = parse_config(text, "written")
    assert not file.warnings
    (application,) = file.schema.applications
    assert (application.name, application.route_prefix, application.import_path) == ("app1", "/", "module:app")
    leaf, second, root = application.deployments
    assert [leaf.name, second.name, root.name] == ["Leaf", "Leaf_1", "Root"]
    assert leaf.overrides() == {"max_ongoing_requests": 7, "user_config": {"größe": [1, None]}}
    again = Root.options(**root.overrides()).all_options
    assert again.model_dump(mode="json") == Root.all_options.model_dump(mode="json")
    assert again.ray_actor_options.model_fields_set == {"num_gpus"}


def test_several_have_names_and_routes_of_their_own() -> None:
    file = parse_config(config_of([("a:app", Root.bind()), ("b:app", Leaf.bind())]), "written")
    said = [(each.name, each.route_prefix, each.import_path) for each in file.schema.applications]
    assert said == [("app1", "/app1", "a:app"), ("app2", "/app2", "b:app")]


def test_only_what_is_set_is_written() -> None:
    (application,) = yaml.safe_load(config_of([("a:app", deployment(Model).bind())]))["applications"]
    assert application["deployments"] == [{"name": "Model"}]
