"""What the user's code is right now, as a hash: a redeploy after an edit must replace the replicas.

A class that lives in an importable module is pickled by name, so its bytes do not change when its source
does. The hash therefore covers the source of every loaded module that is the user's own: not Python's, not
installed, not ours. Modules that only a replica imports are not seen, but where a deployment looks for modules in
folders of its own (``runtime_env``), in which this process does not, every source in them counts.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any, cast

import salver
from salver.records import CodeContext
from salver.serve.building.contents import INSTALLED_FOLDERS, hash_of_file, hash_of_folder

_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_RECALLS = {"BINGET", "LONG_BINGET"}
# The random id by which cloudpickle knows a class that it pickles by value; it differs in every process. In
# the pickle it is the last argument but one, before None, of the call that makes the class.
_CLASS_ID = re.compile(r"SAY '[0-9a-f]{32}'\nNONE None\nTUPLE None\nREDUCE None\n")


def code_fingerprint(code: CodeContext) -> str:
    """Hash the sources of the user's loaded modules, and where replicas look for code.

    The same in every process that has loaded the same modules; files that have disappeared count as empty.
    """
    digest = hashlib.sha256(repr(code).encode())
    for name, path in sorted(user_sources(code.cwd)):
        digest.update(f"\0{name}\0".encode())
        digest.update(hash_of_file(path))
    for folder in folders_of_its_own(code):
        digest.update(hash_of_folder(folder, ".py"))
    return digest.hexdigest()


def stable_definition(definition: bytes) -> bytes:
    """What ``definition`` (a pickle) says, without how: equal for two pickles of the same thing.

    Two pickles of one class differ in its random id, and in whether an equal string is said again or recalled,
    which depends on whether it is the same object: it no longer is when an exception has travelled by value.
    """
    said: list[str] = []
    memo: list[str] = []
    references = 0
    latest: str | None = None
    for opcode, argument, _ in pickletools.genops(definition):
        if opcode.name == "MEMOIZE":
            if latest is None:
                references += 1
            memo.append(latest or f"RECALL {references}")
        elif opcode.name in _RECALLS:
            said.append(memo[cast(int, argument)])
        elif opcode.name != "FRAME":
            latest = f"SAY {argument!r}" if opcode.name in _STRINGS else None
            said.append(latest or f"{opcode.name} {_short(argument)}")
    return _CLASS_ID.sub("", "\n".join(said)).encode(errors="surrogatepass")


def _short(argument: object) -> str:
    """Large constants by their hash."""
    return hashlib.sha256(argument).hexdigest() if isinstance(argument, bytes | bytearray) else repr(argument)


def user_sources(cwd: str) -> list[tuple[str, str]]:
    """Names and paths of loaded modules. What is below ``cwd`` is the user's, even if that is itself installed."""
    foreign = _foreign_folders()
    own = f"{cwd}/" if cwd and _is_foreign(f"{cwd}/", foreign) else "\0"
    sources: list[tuple[str, str]] = []
    for name, module in list(sys.modules.items()):
        path: Any = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py"):
            continue
        if not _is_foreign(path.removeprefix(own), foreign):
            sources.append((name, path))
    return sources


def _is_foreign(path: str, folders: tuple[str, ...]) -> bool:
    return path.startswith(folders) or not INSTALLED_FOLDERS.isdisjoint(Path(path).parts)


def folders_of_its_own(code: CodeContext) -> list[str]:
    """Where its modules are looked for, and this process's are not."""
    ours = {os.path.abspath(entry) for entry in sys.path}
    own = [entry for entry in code.sys_path if entry not in ours]
    return [entry for entry in own if os.path.basename(entry) not in INSTALLED_FOLDERS]


def _foreign_folders() -> tuple[str, ...]:
    """Folders of Python and ours. Not all of ``sys.prefix``: where it is ``/usr``, users have code in it."""
    folders = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(Path(salver.__file__).parent),
    }
    folders |= {f"{sys.prefix}/lib", f"{sys.base_prefix}/lib"}
    return tuple(f"{folder}/" for folder in folders)
