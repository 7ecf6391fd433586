"""The ``runtime_env`` below that of every application that this process deploys: what ``ray.init`` was given."""

from __future__ import annotations

import dataclasses

import msgspec

from salver.records import CodeContext, JsonDict
from salver.serve.building.application_settings import ApplicationSettings

_default: JsonDict = {}


def set_default_runtime_env(env: JsonDict | None) -> None:
    """Use ``env`` from now on; None is nothing. Raises OptionsError when a key is wrong or not supported."""
    global _default
    if env:
        from salver.serve.runtime_env import check_runtime_env  # few have one

        check_runtime_env(env)
    _default = dict(env or {})


def under_default_runtime_env(
    code: CodeContext, settings: ApplicationSettings
) -> tuple[CodeContext, ApplicationSettings]:
    """Where an application's modules are, and its settings, with the default below its own ``runtime_env``."""
    if not _default or settings.in_this_process:
        return code, settings
    from salver.serve.runtime_env import merge_runtime_env, resolve

    base = settings.base or code
    merged = merge_runtime_env(_default, settings.runtime_env)
    resolved = msgspec.structs.replace(resolve(merged, base, settings.progress), setup=code.setup)
    return resolved, dataclasses.replace(settings, runtime_env=merged, base=base)
