"""``import ray`` means Salver: ``from ray import serve`` and ``ray.serve.*`` give Salver's own modules, and
``ray.util.metrics`` gives ``salver.serve.metrics``.

Installed by the command line when Ray is not there, or when the user asks (``--compat``, or ``install()`` in code).
Of ``ray`` itself there are ``exceptions``, and ``init``, ``shutdown`` and ``is_initialized``, of which Salver needs
none: they only remember the ``runtime_env`` of ``init``, for what is deployed afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_ALIASES = {
    "ray.serve": "salver.serve",
    "ray.util.metrics": "salver.serve.metrics",
    "ray.exceptions": "salver.compat.ray_exceptions",
}


class _RayFinder(MetaPathFinder):
    """Finds ``ray``, ``ray.serve`` and its submodules; ``on_first_import`` is told once."""

    def __init__(self, on_first_import: Callable[[], None] | None) -> None:
        self._on_first_import = on_first_import

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "ray":
            if self._on_first_import is not None:
                self._on_first_import()
                self._on_first_import = None
            return ModuleSpec("ray", _RootLoader(), is_package=True)
        if fullname == "ray.util":
            return ModuleSpec("ray.util", _UtilLoader(), is_package=True)
        for alias, real in _ALIASES.items():
            if fullname == alias or fullname.startswith(f"{alias}."):
                name = real + fullname.removeprefix(alias)
                return ModuleSpec(fullname, _AliasLoader(name)) if _exists(name) else None
        return None


class _RootLoader(Loader):
    """Makes the ``ray`` module."""

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(
            __doc__="Salver under Ray's name.",
            __salver_alias__=True,
            init=_init,
            shutdown=_shutdown,
            is_initialized=_is_initialized,
            __getattr__=_import_exceptions,
        )


class _UtilLoader(Loader):
    """Makes the ``ray.util`` package, of which there is only ``metrics``."""

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = "Salver under Ray's name."


class _AliasLoader(Loader):
    """Gives the real module itself, so that classes are the same under both names."""

    def __init__(self, real: str) -> None:
        self._real = real
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system put the alias's there


def _import_exceptions(name: str) -> ModuleType:
    """``ray.exceptions`` is there without being imported, as in Ray."""
    if name == "exceptions":
        return import_module("ray.exceptions")
    raise AttributeError(f"module 'ray' has no attribute {name!r}: this is Salver under Ray's name")


_initialized = False


def _init(*_args: Any, runtime_env: dict[str, Any] | None = None, **_kwargs: Any) -> None:
    """Nothing to initialise: the first ``serve.run`` starts what is needed."""
    global _initialized
    _set_default_runtime_env(runtime_env)
    _initialized = True


def _shutdown(*_args: Any, **_kwargs: Any) -> None:
    """Nothing to shut down: ``serve.shutdown`` ends applications."""
    global _initialized
    _set_default_runtime_env(None)
    _initialized = False


def _set_default_runtime_env(env: dict[str, Any] | None) -> None:
    from salver.serve.building.default_runtime_env import (
        set_default_runtime_env,  # not for those who only ask for the alias
    )

    set_default_runtime_env(env)


def _is_initialized() -> bool:
    return _initialized


def install(on_first_import: Callable[[], None] | None = None) -> None:
    """Make ``import ray`` mean Salver from now on, in this process and in replicas of what it deploys.

    Raises:
        ImportError: Ray itself has been imported already; call this first.
    """
    loaded = sys.modules.get("ray")
    if getattr(loaded, "__salver_alias__", False) is True:
        return
    if loaded is not None:
        raise ImportError("Ray has been imported already: call salver.compat.ray.install() before `import ray`")
    if not any(isinstance(finder, _RayFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RayFinder(on_first_import))


def ray_is_installed() -> bool:
    """Whether ``import ray`` would find something without us."""
    try:
        return find_spec("ray") is not None
    except (ImportError, ValueError):
        return False


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
