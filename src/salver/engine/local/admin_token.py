"""The tokens that open the control API on TCP.

A token is a file in the instance's folder that only this user can read. Whoever may read it may do everything; it is
in no argument, variable or URL, where others could see it. For a change of tokens there are two: the one before is
accepted until it is dropped, so that clients can follow one after the other.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from salver.engine.local.instance import Instance
from salver.errors import StartupError

_TOKEN_BYTES = 32
_FILE_BYTES = 256


class TokenExposed(StartupError):
    """Others could have read a token."""


def token_file(instance: Instance) -> Path:
    """Where the token is for clients to read."""
    return instance.folder / "admin.token"


def old_token_file(instance: Instance) -> Path:
    return instance.folder / "admin.token.old"


def create_token(instance: Instance) -> None:
    """Give a new instance its token. Raises FileExistsError when it has one, or something else has that name."""
    _write_new(token_file(instance))


def valid_tokens(instance: Instance) -> tuple[str, ...]:
    """The tokens that are accepted now; none when there is no file.

    Raises:
        TokenExposed: a file of them is not for this user alone.
    """
    tokens = (_read(token_file(instance)), _read(old_token_file(instance)))
    return tuple(token for token in tokens if token)


def rotate_token(instance: Instance) -> str:
    """Make a new token and return it; the one before is valid until ``drop_old_token``, older ones no longer."""
    current, old = token_file(instance), old_token_file(instance)
    new = current.with_suffix(".new")
    new.unlink(missing_ok=True)
    token = _write_new(new)
    old.unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # somebody has removed it
        os.link(current, old)  # a second name: at no moment is there no valid token
    new.rename(current)
    return token


def drop_old_token(instance: Instance) -> None:
    """End a change of tokens: only the latest one is valid. May be called twice."""
    old_token_file(instance).unlink(missing_ok=True)


def _write_new(path: Path) -> str:
    from secrets import token_urlsafe  # with OpenSSL's hashes, which every launcher would carry

    token = token_urlsafe(_TOKEN_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return token


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise TokenExposed(f"{path} is not a file of this user alone: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor)
        if not stat.S_ISREG(mode.st_mode) or mode.st_uid not in {0, os.getuid()} or mode.st_mode & 0o077:
            raise TokenExposed(f"{path} could be read or written by others: remove it, or `chmod 600` and rotate it")
        return os.read(descriptor, _FILE_BYTES).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)
