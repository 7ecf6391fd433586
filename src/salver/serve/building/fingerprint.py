"""What the user's code is right now, as a hash: a redeploy after an edit must replace the replicas.

A class that lives in an importable module is pickled by name, so its bytes do not change when its source
does. The hash therefore covers the sources of the user's own modules (``user_modules``).
"""

from __future__ import annotations

import hashlib
import pickletools
import re
from typing import cast

from salver.records import CodeContext
from salver.serve.building.contents import hash_of_file
from salver.serve.building.user_modules import user_modules

_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_RECALLS = {"BINGET", "LONG_BINGET"}
# The random id by which cloudpickle knows a class that it pickles by value; it differs in every process. In
# the pickle it is the last argument but one, before None, of the call that makes the class.
_CLASS_ID = re.compile(r"SAY '[0-9a-f]{32}'\nNONE None\nTUPLE None\nREDUCE None\n")


def code_fingerprint(code: CodeContext, base: CodeContext | None = None) -> str:
    """Hash the sources of the user's modules, and where replicas look for code.

    The same in every process that has loaded the same modules; files that have disappeared count as empty.

    Args:
        code: where replicas find the user's code.
        base: where they would without a ``runtime_env``; None is where this process looks.
    """
    digest = hashlib.sha256(repr(code).encode())
    for name, path in sorted(user_modules(code, base).items()):
        digest.update(f"\0{name}\0".encode(errors="surrogateescape"))
        digest.update(hash_of_file(path))
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
