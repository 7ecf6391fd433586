"""Which modules are the user's own: not Python's, not installed, not ours.

Three ways lead to them: what this process has loaded; what the sources of that import by name, wherever the import
stands, for many a constructor imports its model only in the replica; and folders in which the replicas look and the
process that was started by the user does not (``runtime_env``), where every source counts. What code finds by other
means (``importlib``, ``exec``) in folders of the user's is not seen.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import salver
from salver.records import CodeContext
from salver.serve.building.contents import INSTALLED_FOLDERS, files_below

_MOST_FOLLOWED = 20_000
_OURS = f"{Path(salver.__file__).parent}/"
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_MAY_COME_LATER = re.compile(rb"(?:^[ \t\f]+|[:;\\][ \t\f]*)(?:\r?\n)?[ \t\f]*(?:from|import)\b", re.MULTILINE)
"""An import that is not a line of its own at the left margin: in a function, under a condition."""


def user_modules(code: CodeContext, base: CodeContext | None = None) -> dict[str, str]:
    """Names of the modules, and the paths of their sources, which may be gone by now.

    Args:
        code: where replicas look for them.
        base: where they would without a ``runtime_env``; None is where this process looks.
    """
    modules = dict(_loaded(code.cwd))
    _follow(modules, _user_folders(code))
    for folder in folders_of_its_own(code, base):
        for file in files_below(folder, ".py"):
            modules.setdefault(_module_name(file), os.path.join(folder, file))
    return modules


def folders_of_its_own(code: CodeContext, base: CodeContext | None) -> list[str]:
    """Where its modules are looked for because of a ``runtime_env``."""
    ours = {os.path.abspath(entry) for entry in (sys.path if base is None else base.sys_path)}
    own = [entry for entry in code.sys_path if entry not in ours]
    return [entry for entry in own if os.path.basename(entry) not in INSTALLED_FOLDERS]


# --- what is loaded -------------------------------------------------------------------------------------


def _loaded(cwd: str) -> Iterator[tuple[str, str]]:
    """What is below ``cwd`` is the user's, even if that is itself installed."""
    foreign = _foreign_folders()
    own = f"{cwd}/" if cwd and _is_foreign(f"{cwd}/", foreign) else "\0"
    for name, module in list(sys.modules.items()):
        path: Any = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py"):
            continue
        if not _is_foreign(path.removeprefix(own), foreign):
            yield name, path


def _is_foreign(path: str, folders: tuple[str, ...]) -> bool:
    return path.startswith(folders) or not INSTALLED_FOLDERS.isdisjoint(Path(path).parts)


def _foreign_folders() -> tuple[str, ...]:
    """Folders of Python and ours. Not all of ``sys.prefix``: where it is ``/usr``, users have code in it."""
    folders = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        f"{sys.prefix}/lib",
        f"{sys.base_prefix}/lib",
    }
    return (_OURS, *(f"{folder}/" for folder in folders))


# --- what that imports ----------------------------------------------------------------------------------


def _user_folders(code: CodeContext) -> list[str]:
    foreign = _foreign_folders()
    entries = [entry for entry in code.sys_path if entry == code.cwd or not _is_foreign(f"{entry}/", foreign)]
    return [entry for entry in entries if os.path.isdir(entry)]


def _follow(modules: dict[str, str], folders: list[str]) -> None:
    """Add what they import by name from ``folders``, and what that imports. ``modules`` are loaded."""
    looked_for = set(modules)
    unread = [(name, path, True) for name, path in modules.items()]
    while unread and len(modules) < _MOST_FOLLOWED:
        name, path, is_loaded = unread.pop()
        for wanted in _imports_of(name, path, is_loaded):
            if wanted in looked_for:
                continue
            looked_for.add(wanted)
            found = _source_of(wanted, folders)
            if found is not None:
                modules[wanted] = found
                unread.append((wanted, found, False))


def _imports_of(name: str, path: str, is_loaded: bool) -> Iterator[str]:
    """Every name in the source at ``path`` that may be a module not loaded yet, and the packages around it."""
    try:
        text = Path(path).read_bytes()
        if is_loaded and not _MAY_COME_LATER.search(text):
            return  # most have loaded all that they import; to parse one takes a millisecond
        with warnings.catch_warnings(action="ignore"):  # those of the compiler are for whoever imports it
            tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):  # whoever imports it will hear of it
        return
    package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, package)
            yield from _with_packages(source)
            for alias in node.names:
                yield f"{source}.{alias.name}" if source else alias.name


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All of them, without what is in their expressions."""
    unseen: list[ast.AST] = [tree]
    while unseen:
        node = unseen.pop()
        for field in _BLOCKS:
            block: list[ast.AST] | ast.AST = getattr(node, field, None) or []
            unseen += block if isinstance(block, list) else []  # a lambda's body is an expression
        yield node


def _absolute(node: ast.ImportFrom, package: str) -> str:
    parts = package.split(".")[: -(node.level - 1) or None] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def _with_packages(name: str) -> Iterable[str]:
    """``a.b.c`` is ``a``, ``a.b`` and ``a.b.c``."""
    parts = name.split(".")
    if parts[0] not in sys.stdlib_module_names:
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _source_of(name: str, folders: list[str]) -> str | None:
    """Nothing of ours, which lies in a folder like the user's where we are installed as an editable package."""
    relative = name.replace(".", "/")
    for folder in folders:
        for path in (f"{folder}/{relative}/__init__.py", f"{folder}/{relative}.py"):
            if os.path.isfile(path):
                return None if path.startswith(_OURS) else path
    return None


def _module_name(file: str) -> str:
    """``pkg/mod.py`` is ``pkg.mod``, ``pkg/__init__.py`` is ``pkg``."""
    name = file.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")
