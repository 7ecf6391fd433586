"""One application of a config, built in a process that does nothing else: its imports change this process."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import msgspec

from salver.engine.local.roles import make_importable
from salver.errors import placed
from salver.records import ApplicationSpec, CodeContext, JsonDict
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.builder import build_from_target
from salver.serve.building.code_context import COMPAT_SETUP, code_context
from salver.serve.building.graph import build_application
from salver.serve.building.import_path import import_target
from salver.serve.config import LoggingConfig
from salver.serve.schema.deploy import ServeApplicationSchema


def build_declared(
    application: ServeApplicationSchema,
    config: JsonDict,
    logging_config: LoggingConfig | None,
    base: CodeContext,
    progress: Callable[[str], None],
) -> ApplicationSpec:
    """Make this process what ``application`` asks for, import it there, and build it.

    Args:
        config: what the file says of it, to be shown later.
        logging_config: when it has none of its own.
        base: where import paths are looked for, below its ``runtime_env``.
        progress: is told what takes long.

    Raises:
        Exception: whatever the user's module raises, ours too; ``mistakes`` puts it in words.
    """
    code = _with_runtime_env(application.runtime_env, base, progress)
    make_importable(code)
    if find_spec("ray") is None:
        module, _, name = COMPAT_SETUP.partition(":")
        getattr(import_module(module), name)()
    progress(f"importing {application.import_path}")
    with placed("import_path"):
        target = import_target(application.import_path)
    with placed("args"):
        target = build_from_target(target, application.args)
    return build_application(
        target,
        name=application.name,
        route_prefix=application.route_prefix,
        code=msgspec.structs.replace(code_context(), env_vars=code.env_vars),
        settings=ApplicationSettings(
            logging_config=application.logging_config or logging_config,
            external_scaler_enabled=application.external_scaler_enabled,
            autoscaling_policy=application.autoscaling_policy,
            overrides={each.name: each.overrides() for each in application.deployments},
            runtime_env=application.runtime_env,
            base=base,
            config=config,
            progress=progress,
        ),
    )


def _with_runtime_env(env: JsonDict, base: CodeContext, progress: Callable[[str], None]) -> CodeContext:
    if not env:
        return base
    from salver.serve.runtime_env import resolve  # most have none

    return resolve(env, base, progress)
