"""What an application is deployed with beside its graph: arguments of ``serve.run``, or its part of a config file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from salver.records import CodeContext, JsonDict
from salver.serve.config import AutoscalingPolicy, LoggingConfig
from salver.serve.options import DeploymentKwargs

_logger = logging.getLogger("salver.serve")


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """The default is what ``serve.run(app)`` means.

    Attributes:
        logging_config: of every deployment that has none of its own.
        external_scaler_enabled: its deployments may be scaled by the control API.
        autoscaling_policy: decides for all of its deployments together.
        overrides: options that win over those in the code, by the deployment's name.
        runtime_env: under that of each deployment.
        base: where code is without any ``runtime_env``; None is where the application's is.
        config: the part of the config file, JSON-able; None when code deploys it.
        progress: is told what takes long.
        in_this_process: its replicas will be objects here, for which no ``runtime_env`` can be made.
    """

    logging_config: LoggingConfig | None = None
    external_scaler_enabled: bool = False
    autoscaling_policy: AutoscalingPolicy | None = None
    overrides: Mapping[str, DeploymentKwargs] = field(default_factory=dict[str, DeploymentKwargs])
    runtime_env: JsonDict = field(default_factory=dict[str, Any])
    base: CodeContext | None = None
    config: JsonDict | None = None
    progress: Callable[[str], None] = _logger.info
    in_this_process: bool = False
