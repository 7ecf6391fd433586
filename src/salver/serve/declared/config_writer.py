"""Applications as a config file, to be edited and deployed: what ``salver build`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from salver.serve.building.graph import named_deployments
from salver.serve.deployment import Application

_HEADER = """\
# Written by `salver build`. Options here win over those in the code; delete those that the code is to decide.
# Everything that may be set: `salver config --schema`, and docs/options.md.

"""


def config_of(targets: Sequence[tuple[str, Application]]) -> str:
    """A config file, as YAML, of applications with their import paths.

    The deployments have the options that are set in the code. One application has the route ``/``; of several each
    has one that is its name, ``app1`` and so on.

    Raises:
        SerializationError: an argument of ``bind`` cannot be sent to a replica.
    """
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            _application(f"app{number}", "/" if len(targets) == 1 else f"/app{number}", import_path, application)
            for number, (import_path, application) in enumerate(targets, start=1)
        ],
    }
    return _HEADER + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _application(name: str, route_prefix: str, import_path: str, application: Application) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": import_path,
        "runtime_env": {},
        "deployments": [
            {"name": each, **deployment.all_options.model_dump(mode="json", exclude_unset=True, exclude={"name"})}
            for each, deployment in named_deployments(application, name).items()
        ],
    }
