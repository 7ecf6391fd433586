"""Where this process finds the user's modules, as replicas are told."""

from __future__ import annotations

import os
import sys

from salver.records import CodeContext

COMPAT_SETUP = "salver.compat.ray:install"
"""In the ``setup`` of applications that say ``import ray``."""


def code_context() -> CodeContext:
    """Where this process finds modules, for replicas to do the same."""
    here = os.getcwd()
    paths = tuple(os.path.abspath(entry) if entry else here for entry in sys.path)
    return CodeContext(paths, here, setup_of_this_process())


def setup_of_this_process() -> tuple[str, ...]:
    """What replicas of the code that is loaded here must call before they import it."""
    alias = sys.modules.get("ray")
    return (COMPAT_SETUP,) if getattr(alias, "__salver_alias__", False) is True else ()
