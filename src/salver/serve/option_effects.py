"""What each option of a deployment does, and what a change of it replaces.

The one table of both; ``docs/options.md`` is compared with it. Setting an option that does nothing in this version to
something else than its default warns, so that nobody relies on it by accident.
"""

from __future__ import annotations

import sys
import warnings
from enum import StrEnum
from pathlib import Path

import salver
from salver.data.context import replica_identity
from salver.serve.options import DeploymentOptions, RayActorOptions


class UpdateClass(StrEnum):
    """What happens to running replicas when an option changes."""

    LIGHT = "light"
    """Nothing: they do not know it."""

    RECONFIGURE = "reconfigure"
    """They are told, and run on."""

    HEAVY = "heavy"
    """They are replaced by a rolling update: they were made of it."""


UPDATE_CLASSES: dict[str, UpdateClass] = {
    "num_replicas": UpdateClass.LIGHT,
    "ray_actor_options": UpdateClass.HEAVY,
    "placement_group_bundles": UpdateClass.HEAVY,
    "placement_group_strategy": UpdateClass.HEAVY,
    "placement_group_bundle_label_selector": UpdateClass.HEAVY,
    "max_replicas_per_node": UpdateClass.HEAVY,
    "user_config": UpdateClass.RECONFIGURE,
    "max_ongoing_requests": UpdateClass.RECONFIGURE,
    "max_queued_requests": UpdateClass.LIGHT,
    "backpressure_config": UpdateClass.LIGHT,
    "autoscaling_config": UpdateClass.LIGHT,
    "graceful_shutdown_wait_loop_s": UpdateClass.LIGHT,
    "graceful_shutdown_timeout_s": UpdateClass.RECONFIGURE,
    "health_check_period_s": UpdateClass.LIGHT,
    "health_check_timeout_s": UpdateClass.LIGHT,
    "logging_config": UpdateClass.RECONFIGURE,
    "request_router_config": UpdateClass.LIGHT,
    "max_constructor_retry_count": UpdateClass.LIGHT,
    "gang_scheduling_config": UpdateClass.HEAVY,
    "deployment_actors": UpdateClass.HEAVY,
    "rolling_update_percentage": UpdateClass.LIGHT,
    "max_surge_percent": UpdateClass.LIGHT,
    "startup_timeout_s": UpdateClass.LIGHT,
    "idempotent": UpdateClass.LIGHT,
    "hang_timeout_s": UpdateClass.LIGHT,
    "cancel_grace_s": UpdateClass.RECONFIGURE,
    "max_rss": UpdateClass.RECONFIGURE,
    "max_requests": UpdateClass.RECONFIGURE,
}

HEAVY_OPTIONS = frozenset(name for name, made_of in UPDATE_CLASSES.items() if made_of is UpdateClass.HEAVY)

OPTIONS_WITHOUT_EFFECT = frozenset(
    {
        "placement_group_bundles",
        "placement_group_strategy",
        "placement_group_bundle_label_selector",
        "graceful_shutdown_wait_loop_s",
        "request_router_config",
        "gang_scheduling_config",
        "deployment_actors",
    }
)
"""Options that this version accepts and does not act on."""

_PLACEMENT_WITHOUT_EFFECT = ("label_selector", "fallback_strategy")
"""The same of ``ray_actor_options``: one machine has no labels."""

_warned: set[str] = set()


def warn_about_options_without_effect(deployment: str, options: DeploymentOptions) -> None:
    """Tell the user, once per process and option, that this version ignores an option they have set.

    Replicas, which import the same code again, say nothing.
    """
    if replica_identity.get() is not None:
        return
    for name in _set_in_vain(options):
        if name not in _warned:
            _warned.add(name)
            warnings.warn(
                f"option {name!r} of deployment {deployment!r} is accepted but has no effect in this version "
                "of Salver; see docs/options.md",
                UserWarning,
                stacklevel=_caller_level(),
            )


def _set_in_vain(options: DeploymentOptions) -> list[str]:
    fields = DeploymentOptions.model_fields
    names = [name for name in fields if name in OPTIONS_WITHOUT_EFFECT]
    found = [name for name in names if getattr(options, name) != fields[name].default]
    actor = options.ray_actor_options
    defaults = RayActorOptions.model_fields
    return found + [
        f"ray_actor_options.{name}"
        for name in _PLACEMENT_WITHOUT_EFFECT
        if getattr(actor, name) != defaults[name].default
    ]


_SALVER_FOLDER = str(Path(salver.__file__).parent)


def _caller_level() -> int:
    """The ``stacklevel`` at which the frame is the user's, seen from this function's caller."""
    level = 1
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SALVER_FOLDER):
        frame = frame.f_back
        level += 1
    return level
