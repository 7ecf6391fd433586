"""What the user's code is right now, as a hash: a redeploy after an edit must replace the replicas.

A class that lives in an importable module is pickled by name, so its bytes do not change when its source
does. The hash therefore covers the source of every loaded module that is the user's own: not Python's, not
installed, not ours. Modules that only a replica imports are not seen.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

import salver
from salver.records import CodeContext

_INSTALLED_FOLDERS = {"site-packages", "dist-packages"}
# The random id by which cloudpickle knows a class that it pickles by value; it differs in every process. In
# the pickle it is the last argument but one, before None, of the call that makes the class.
_CLASS_ID = re.compile(rb"\x8c\x20[0-9a-f]{32}\x94Nt\x94R")


def code_fingerprint(code: CodeContext) -> str:
    """Hash the sources of the user's loaded modules, and where replicas look for code.

    The same in every process that has loaded the same modules; files that have disappeared count as empty.
    """
    digest = hashlib.sha256(repr(code).encode())
    for name, path in sorted(_user_sources()):
        digest.update(f"\0{name}\0".encode())
        digest.update(_content_hash(path))
    return digest.hexdigest()


def stable_definition(definition: bytes) -> bytes:
    """``definition`` (a pickle) without what differs between two processes that pickle the same thing."""
    return _CLASS_ID.sub(b"", definition)


def _user_sources() -> list[tuple[str, str]]:
    foreign = _foreign_folders()
    sources: list[tuple[str, str]] = []
    for name, module in list(sys.modules.items()):
        path: Any = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.endswith(".py") or path.startswith(foreign):
            continue
        if _INSTALLED_FOLDERS.isdisjoint(Path(path).parts):
            sources.append((name, path))
    return sources


def _foreign_folders() -> tuple[str, ...]:
    """Folders of Python and ours. Not all of ``sys.prefix``: where it is ``/usr``, users have code in it."""
    folders = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        str(Path(salver.__file__).parent),
    }
    folders |= {f"{sys.prefix}/lib", f"{sys.base_prefix}/lib"}
    return tuple(f"{folder}/" for folder in folders)


def _content_hash(path: str) -> bytes:
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""
