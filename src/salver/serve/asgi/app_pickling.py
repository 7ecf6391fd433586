"""Makes FastAPI and Starlette applications picklable by value, as those of scripts and notebooks must be.

Two of their parts are not: ``State`` looks for its own attributes before it has any, and an included router, which
newer versions of FastAPI keep instead of copying its routes, has a lock. Rules for both are registered with
``copyreg``, where every pickler finds them.
"""

from __future__ import annotations

import copyreg
import sys
from typing import Any

from starlette.datastructures import State


def make_apps_picklable() -> None:
    """Register the rules. Called when a Starlette application is given to ``@serve.ingress``."""
    copyreg.pickle(State, _reduce_state)
    included = getattr(sys.modules.get("fastapi.routing"), "_IncludedRouter", None)
    if included is not None:
        copyreg.pickle(included, _reduce_included_router)


def _reduce_state(state: State) -> tuple[Any, ...]:
    return _restore_state, (dict(vars(state)),)


def _restore_state(attributes: dict[str, Any]) -> State:
    state = State()
    vars(state).update(attributes)
    return state


def _reduce_included_router(included: Any) -> tuple[Any, ...]:
    return included.__class__, (included.original_router, included.include_context)
